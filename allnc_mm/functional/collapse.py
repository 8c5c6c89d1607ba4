"""Neural collapse: streaming class statistics, and how far features and classifier are from a simplex ETF.

Everything is float64. A measure that is undefined (one class, no sample, collapsed vectors) is NaN, never 0. Means and
classifier vectors are matrices (K, d) whose row k belongs to class k; rows of NaN stand for classes without samples and
are left out everywhere, so K' below is the number of classes that are present.

The measures NC1 to NC4 are those of `Prevalence of neural collapse <https://arxiv.org/abs/2008.08186>`_, GNC1 to GNC3
those of `Generalized neural collapse <https://arxiv.org/abs/2310.05351>`_. The global mean is the mean of the class
means, as class counts must not move the centre of the simplex.

Nothing of size K x K is kept: what runs over pairs of classes does so in blocks of rows, so that 8142 classes with 2048
features fit. :func:`collapse_measures` returns everything at once, with a reason for whatever is undefined.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .geometry import row_max_cosines, unit_rows
from .one_vs_rest import one_vs_rest_lower_bounds

__all__ = [
    'CDNV', 'ClassStatistics', 'PairSummary', 'SecondPass', 'aligned_cosines', 'cdnv', 'collapse_measures',
    'equiangularity', 'equinorm', 'etf_distance', 'gnc2', 'group_cosine', 'max_angle_gap', 'minority_classes',
    'minority_collapse_index', 'nc1', 'nc1_balanced', 'nc1_per_class', 'nc1_quotient', 'nearest_angles', 'norm_ratio',
    'pair_summary', 'pairwise_cosines', 'product_duality', 'self_duality'
]

NAN = float('nan')
BLOCK = 512  # rows of a K x K matrix that exist at a time


class ClassStatistics:
    r"""Counts, means and scatter of features by class, updated batch by batch.

    The moments are merged with the formula of Chan et al. instead of raw sums of squares, which cancel
    catastrophically once features have collapsed onto means far from the origin. The merge is also how the statistics
    of several processes become one.

    Args:
        num_classes (int): The number of classes K.
        dim (int): The feature dimension d.
        scatter (bool): Whether to keep the pooled (d, d) scatter matrix, which :func:`nc1` needs. Without it, only the
            traces are kept. Defaults to True.
        device (torch.device | str): Where the state lives. Defaults to 'cpu'.

    Attributes:
        counts (Tensor): Samples of each class, (K,) int64.
        means (Tensor): Class means, (K, d) float64, zero for absent classes (:meth:`class_means` has NaN there).
        traces (Tensor): :math:`\sum_{y_i=k} |x_i - \mu_k|^2`, (K,) float64.
        scatter (Tensor | None): :math:`\sum_i (x_i - \mu_{y_i})(x_i - \mu_{y_i})^\top`, (d, d) float64.

    Example:
        >>> stats = ClassStatistics(num_classes=2, dim=1)
        >>> stats.update(torch.tensor([[0.], [2.], [5.]]), torch.tensor([0, 0, 1]))
        >>> stats.counts.tolist(), stats.class_means().flatten().tolist(), stats.traces.tolist()
        ([2, 1], [1.0, 5.0], [2.0, 0.0])
    """

    def __init__(self, num_classes: int, dim: int, scatter: bool = True, device: torch.device | str = 'cpu') -> None:
        if num_classes < 1 or dim < 1:
            raise ValueError(f'num_classes and dim must be positive, but got {num_classes} and {dim}.')
        self.counts = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.means = torch.zeros(num_classes, dim, dtype=torch.float64, device=device)
        self.traces = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self.scatter: Tensor | None = None
        if scatter:
            self.scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    @property
    def present(self) -> Tensor:
        """Tensor: Which classes have samples, (K,) bool."""
        return self.counts > 0

    def class_means(self) -> Tensor:
        """Class means (K, d), NaN for the classes without samples."""
        return self.means.masked_fill(~self.present[:, None], NAN)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            features (Tensor): Shape (N, d), any float type.
            labels (Tensor): Integer labels in [0, K), shape (N,).

        Raises:
            ValueError: if the shapes do not fit, a label is out of range or a feature is not finite.
        """
        num_classes, dim = self.means.shape
        if features.dim() != 2 or features.size(1) != dim or labels.shape != features.shape[:1]:
            raise ValueError(f'features must be (N, {dim}) and labels (N,), but got {tuple(features.shape)} and '
                             f'{tuple(labels.shape)}.')
        if labels.numel() == 0:
            return
        labels = labels.to(self.counts)
        if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
            raise ValueError(f'labels must lie in [0, {num_classes}), but got {int(labels.min())} to '
                             f'{int(labels.max())}.')
        features = features.to(self.means)
        bad = int((~features.isfinite().all(1)).sum())
        if bad:
            raise ValueError(f'{bad} of {len(features)} samples have a feature that is NaN or infinite; check the '
                             'images, and that the training has not diverged (a lower learning rate, gradient '
                             'clipping).')
        # Only the classes of this batch: with 8142 classes a dense (K, d) sum per batch would cost more than the model.
        classes, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
        means = features.new_zeros(len(classes), dim).index_add_(0, inverse, features) / counts[:, None]
        centred = features - means[inverse]
        traces = features.new_zeros(len(classes)).index_add_(0, inverse, centred.square().sum(1))
        self._merge(classes, counts, means, traces, None if self.scatter is None else centred.T @ centred)

    def update_directions(self, features: Tensor, labels: Tensor) -> None:
        """Add the features of a batch at unit length, but for those of length zero; arguments as of :meth:`update`."""
        features = features.detach().to(self.means)
        directed = features.abs().amax(1) > 0
        self.update(unit_rows(features[directed], eps=0), labels.to(directed.device)[directed])

    @torch.no_grad()
    def merge(self, other: ClassStatistics) -> None:
        """Add what another accumulator has seen, e.g. that of another process. Merge in rank order.

        Raises:
            ValueError: if K, d or the presence of the scatter matrix differ.
        """
        if other.means.shape != self.means.shape or (other.scatter is None) != (self.scatter is None):
            raise ValueError(
                f'Statistics of shape {tuple(other.means.shape)} (scatter={other.scatter is not None}) do not merge '
                f'into shape {tuple(self.means.shape)} (scatter={self.scatter is not None}).')
        device = self.means.device
        classes = other.present.nonzero().flatten()
        counts, means, traces = (state[classes].to(device) for state in (other.counts, other.means, other.traces))
        scatter = None if other.scatter is None else other.scatter.to(device)
        self._merge(classes.to(device), counts, means, traces, scatter)

    def _merge(self, classes: Tensor, counts: Tensor, means: Tensor, traces: Tensor, scatter: Tensor | None) -> None:
        before = self.counts[classes].to(means)  # integer division would end in float32
        after = before + counts
        delta = means - self.means[classes]
        weight = before * counts / after
        self.traces[classes] += traces + weight * delta.square().sum(1)
        if self.scatter is not None and scatter is not None:
            self.scatter += scatter + (weight[:, None] * delta).T @ delta
        self.means[classes] += delta * (counts / after)[:, None]
        self.counts[classes] += counts

    def state_dict(self) -> dict[str, Tensor]:
        """The state as tensors, to be gathered from other processes or saved."""
        state = dict(counts=self.counts, means=self.means, traces=self.traces)
        return state if self.scatter is None else dict(state, scatter=self.scatter)

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> ClassStatistics:
        """Rebuild statistics from :meth:`state_dict`; the tensors are copied."""
        num_classes, dim = state['means'].shape
        stats = cls(num_classes, dim, scatter='scatter' in state, device=state['means'].device)
        for name, value in state.items():
            setattr(stats, name, value.clone())
        return stats


class SecondPass:
    r"""What needs the final class means and hence a second pass over the samples: NC4, balanced NC1, NCC accuracy.

    The class means are those of ``stats``, of any set of samples. With the training set's means and test samples, it
    gives the accuracy of the nearest-class-mean classifier on the test set. State is additive: merge by summing it.

    Costs :math:`O(N (K d + r d))` for N samples, where r < K' is the rank of the centred means. Absent classes (in
    ``stats``) compete in neither arg max. Ties go to the lowest class.

    Args:
        stats (ClassStatistics): Of the complete first pass.
        weight (Tensor, optional): Classifier vectors, shape (K, d). Defaults to None: no agreements are counted.
        bias (Tensor, optional): Shape (K,). Defaults to None: zero.

    Attributes:
        counts (Tensor): Samples of each class in the second pass, (K,) int64.
        agreements (Tensor | None): Samples on which classifier and nearest class mean agree, (K,) int64; None without
            a classifier.
        correct (Tensor): Samples nearest to the mean of their own class, (K,) int64.
        variability (Tensor): :math:`\sum_{y_i=k} (x_i - \mu_k)^\top \Sigma_B^\dagger (x_i - \mu_k) / K'`, (K,) float64.

    Raises:
        ValueError: if the classifier does not have the shape of the class means, or no class has samples.

    Example:
        >>> stats = ClassStatistics(2, 1)
        >>> x, y = torch.tensor([[0.], [2.], [5.]]), torch.tensor([0, 0, 1])
        >>> stats.update(x, y)
        >>> second = SecondPass(stats, weight=torch.tensor([[-1.], [1.]]), bias=torch.tensor([1., -1.]))
        >>> second.update(x, y)
        >>> second.agreements.tolist(), second.correct.tolist()
        ([1, 1], [2, 1])
    """

    def __init__(self, stats: ClassStatistics, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
        _check_weight(weight, stats)
        self.classes = stats.present.nonzero().flatten()
        if not len(self.classes):
            raise ValueError('The second pass needs class means, but no class has samples yet.')
        means = stats.means[self.classes]
        self.center = means.mean(0)  # distances are taken from here: |x|^2 of features far away would drown them
        self.means = means - self.center
        self.own_means = stats.means
        self.known = stats.present
        singular, self.directions = _between(stats)
        self.directions = self.directions / singular[:, None]
        self.weight = self.bias = None
        self.counts = torch.zeros_like(stats.counts)
        self.correct = torch.zeros_like(stats.counts)
        self.variability = torch.zeros_like(stats.traces)
        self.agreements: Tensor | None = None
        if weight is not None:
            self.weight = weight.detach().to(means)[self.classes]
            self.bias = None if bias is None else bias.detach().to(means)[self.classes]
            self.agreements = torch.zeros_like(stats.counts)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch; samples of classes without a mean are skipped.

        Args:
            features (Tensor): Shape (N, d), any float type.
            labels (Tensor): Integer labels in [0, K), shape (N,).
        """
        labels = labels.to(self.counts)
        known = self.known[labels]
        labels, features = labels[known], features.to(self.means)[known]
        near = torch.linalg.vector_norm(self.means, dim=1).square() - 2 * (features - self.center) @ self.means.T
        nearest = self.classes[near.argmin(1)]
        self.counts.index_add_(0, labels, torch.ones_like(labels))
        self.correct.index_add_(0, labels, (nearest == labels).to(labels))
        whitened = (features - self.own_means[labels]) @ self.directions.T
        self.variability.index_add_(0, labels, whitened.square().sum(1))
        if self.weight is not None and self.agreements is not None:
            logits = features @ self.weight.T
            predicted = self.classes[(logits if self.bias is None else logits + self.bias).argmax(1)]
            self.agreements.index_add_(0, labels, (predicted == nearest).to(labels))

    def state(self) -> list[Tensor]:
        """The tensors to sum over processes, in place: counts, correct, variability and agreements."""
        state = [self.counts, self.correct, self.variability]
        return state if self.agreements is None else [*state, self.agreements]


def _check_weight(weight: Tensor | None, stats: ClassStatistics) -> None:
    if weight is not None and weight.shape != stats.means.shape:
        raise ValueError('Classifier weight and class means must have the same shape (K, d), but got '
                         f'{tuple(weight.shape)} and {tuple(stats.means.shape)}.')


def _between(stats: ClassStatistics) -> tuple[Tensor, Tensor]:
    """Nonzero singular values (r,) and right singular vectors (r, d) of the centred class means; r = 0 if all equal."""
    means, scale = _centre(stats.means[stats.present])
    if len(means) > means.size(1):
        means = torch.linalg.qr(means, mode='r').R  # same values and right vectors, from d x d
    if not len(means):
        return means.new_zeros(0), means
    _, singular, right = torch.linalg.svd(means, full_matrices=False)
    # The centring leaves rank K' - 1 at most; what is below the threshold is rounding, not geometry.
    keep = singular > torch.clamp(1e-10 * singular[0], min=1e-12 * scale)
    return singular[keep], right[keep]


def nc1(stats: ClassStatistics) -> float:
    r"""NC1, the variability within classes relative to that between them.

    .. math:: \text{NC1} = \frac{1}{K'} \operatorname{tr}(\Sigma_W \Sigma_B^\dagger)

    with the pooled within-class covariance :math:`\Sigma_W` and the covariance :math:`\Sigma_B` of the class means,
    computed from the thin SVD of the centred means: no d x d pseudo-inverse.

    Args:
        stats (ClassStatistics): Statistics with ``scatter=True``.

    Returns:
        float: 0 at full collapse; NaN with fewer than two different class means.

    Raises:
        ValueError: for statistics without a scatter matrix.

    Example:
        >>> stats = ClassStatistics(2, 2)
        >>> stats.update(torch.tensor([[1., 0], [1., 0], [-1., 0], [-1., 0]]), torch.tensor([0, 0, 1, 1]))
        >>> nc1(stats)
        0.0
    """
    if stats.scatter is None:
        raise ValueError('nc1 needs statistics with scatter=True; without it use nc1_quotient.')
    singular, right = _between(stats)
    if not len(singular):
        return NAN
    within = ((right @ stats.scatter) * right).sum(1) / stats.counts.sum()
    return float((within / singular.square()).sum())


def nc1_balanced(second: SecondPass) -> float:
    """NC1 in which every class has the same weight, whatever its count: the mean of the classes' own covariances.

    Args:
        second (SecondPass): Over the samples of its class means.

    Returns:
        float: 0 at full collapse; NaN with fewer than two different class means.
    """
    seen = second.counts > 0
    if not len(second.directions) or not bool(seen.any()):
        return NAN
    return float((second.variability[seen] / second.counts[seen]).mean())


def nc1_per_class(stats: ClassStatistics) -> Tensor:
    """Variance of each class over the trace of the between-class covariance, which shows a tail that has not collapsed.

    Returns:
        Tensor: (K,) float64; NaN for classes with fewer than two samples, whose variance says nothing.
    """
    between = _between_trace(stats)
    return torch.where(stats.counts > 1, stats.traces / stats.counts / between, NAN)


def _between_trace(stats: ClassStatistics) -> float:
    """Trace of the covariance of the class means; NaN where they are all equal."""
    means, scale = _centre(stats.means[stats.present])
    if len(means) < 2 or not bool(torch.linalg.vector_norm(means) > 1e-12 * scale):
        return NAN
    return float(means.square().sum() / len(means))


def nc1_quotient(stats: ClassStatistics) -> float:
    """The cheap NC1: trace of the within-class over trace of the between-class covariance (no scatter matrix needed).

    Returns:
        float: 0 at full collapse; NaN with fewer than two different class means.
    """
    return float(stats.traces.sum() / stats.counts.sum() / _between_trace(stats))


class CDNV(NamedTuple):
    """Summary of :func:`cdnv` over all pairs of classes, and the number of pairs whose means are equal."""
    mean: float
    median: float
    max: float
    skipped: int


def cdnv(stats: ClassStatistics) -> CDNV:
    r"""Class-distance normalised variance, `On the role of neural collapse in transfer learning
    <https://arxiv.org/abs/2112.15121>`_.

    .. math:: V_{ij} = \frac{v_i + v_j}{2 |\mu_i - \mu_j|^2}

    with the mean squared distance :math:`v_k` of class k from its mean.

    Args:
        stats (ClassStatistics): Statistics; the scatter matrix is not needed.

    Returns:
        CDNV: mean, median and maximum over the pairs i < j, 0 at full collapse; NaN without a pair. Pairs whose means
        are equal (closer than 1e-12 of their length) are skipped and counted.
    """
    variances = (stats.traces / stats.counts)[stats.present]
    means, scale = _centre(stats.means[stats.present])
    lengths = means.square().sum(1)
    moments, largest, skipped = _Moments(), NAN, 0
    kept: list[Tensor] = []  # for the median alone; of many classes in float32, a quarter of K x K in float64
    for start, stop, upper in _upper_blocks(len(means), means.device):
        squares = (lengths[start:stop, None] + lengths[start:] - 2 * means[start:stop] @ means[start:].T)[upper]
        rows, columns = upper.nonzero(as_tuple=True)
        rows, columns = rows + start, columns + start
        # Where the subtraction has cancelled, from the vectors themselves.
        for close in (squares < 1e-8 * (lengths[rows] + lengths[columns])).nonzero().flatten().split(4 * BLOCK):
            squares[close] = (means[rows[close]] - means[columns[close]]).square().sum(1)
        apart = squares > (1e-12 * scale)**2
        skipped += int((~apart).sum())
        values = ((variances[rows] + variances[columns]) / 2 / squares)[apart]
        moments.add(values)
        if len(values):
            largest = max(largest, float(values.max())) if largest == largest else float(values.max())
            kept.append(values.float() if len(means) > 4 * BLOCK else values)
    median = NAN
    if kept:
        sorted_values = torch.cat(kept).cpu().numpy()
        middle = [(len(sorted_values) - 1) // 2, len(sorted_values) // 2]
        sorted_values.partition(middle)  # in place: torch's would need an index of int64 beside it
        median = float(sorted_values[middle].mean(dtype=np.float64))
    return CDNV(moments.mean, median, largest, skipped)


class _Moments:
    """Mean, spread and minimum of values that come in blocks, without cancellation."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares, self.min = 0, NAN, 0., NAN

    def add(self, values: Tensor) -> None:
        if not len(values):
            return
        mean = float(values.mean())
        squares = float((values - mean).square().sum())
        least = float(values.min())
        if not self.count:
            self.count, self.mean, self.squares, self.min = len(values), mean, squares, least
            return
        total = self.count + len(values)
        delta = mean - self.mean
        self.squares += squares + delta**2 * self.count * len(values) / total
        self.mean += delta * len(values) / total
        self.count, self.min = total, min(self.min, least)

    @property
    def std(self) -> float:
        return math.sqrt(self.squares / self.count) if self.count else NAN


def _upper_blocks(size: int, device: torch.device) -> Iterator[tuple[int, int, Tensor]]:
    """Blocks of rows [start, stop) of a matrix, and which entries of columns [start, size) are pairs i < j."""
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        yield start, stop, torch.ones(stop - start, size - start, dtype=torch.bool, device=device).triu(1)


def _present(vectors: Tensor) -> Tensor:
    if vectors.dim() != 2:
        raise ValueError(f'Expected one vector per class, shape (K, d), but got shape {tuple(vectors.shape)}.')
    return ~vectors.isnan().any(1)


def _centre(vectors: Tensor, center: bool = True) -> tuple[Tensor, Tensor]:
    """Rows minus their mean, and the largest norm before that: the scale below which a difference is rounding."""
    vectors = vectors.detach().to(torch.float64)
    scale = vectors.norm(dim=1).max() if len(vectors) else vectors.new_tensor(NAN)
    return vectors - vectors.mean(0) if center else vectors, scale


def _unit(vectors: Tensor, center: bool) -> Tensor:
    """Directions (K, d) float64; NaN for absent classes and for vectors shorter than 1e-12 of the longest one."""
    present = _present(vectors)
    rows, scale = _centre(vectors[present], center)
    norms = rows.norm(dim=1)
    unit = vectors.new_full(vectors.shape, NAN, dtype=torch.float64)
    unit[present] = torch.where(norms > 1e-12 * scale, 1 / norms, NAN)[:, None] * rows
    return unit


def _directed(unit: Tensor) -> Tensor:
    return unit[~unit.isnan().any(1)]


def _pairs(unit: Tensor) -> Iterator[Tensor]:
    """Cosines of the pairs i < j of rows that have a direction, block by block."""
    unit = _directed(unit)
    for start, stop, upper in _upper_blocks(len(unit), unit.device):
        yield (unit[start:stop] @ unit[start:].T).clamp(-1, 1)[upper]


def pairwise_cosines(vectors: Tensor, center: bool = True) -> Tensor:
    r"""Cosines between the class means, or the classifier vectors, of all pairs of classes.

    At a simplex ETF every pair of classes has the cosine :math:`-1/(K-1)`. This is the K x K matrix, to look at; the
    measures below do without it.

    Args:
        vectors (Tensor): Class means or classifier weight, shape (K, d).
        center (bool): Whether to subtract the mean of the rows first. Defaults to True.

    Returns:
        Tensor: (K, K) float64, 1 on the diagonal. Rows and columns of absent classes, and of vectors shorter than
        1e-12 of the longest one, are NaN.

    Example:
        >>> pairwise_cosines(torch.eye(3))[0]
        tensor([ 1.0000, -0.5000, -0.5000], dtype=torch.float64)
    """
    unit = _unit(vectors, center)
    cosines = (unit @ unit.T).clamp(-1, 1)
    diagonal = cosines.diagonal()
    diagonal[~diagonal.isnan()] = 1
    return cosines


class PairSummary(NamedTuple):
    """Cosines and angles (in degrees) over pairs of classes; NaN without a pair.

    ``cosine_gap`` is the mean distance of the cosines from a simplex's -1/(K'-1).
    """
    cosine_mean: float
    cosine_std: float
    cosine_gap: float
    angle_min: float
    angle_mean: float
    angle_std: float


def pair_summary(vectors: Tensor, group: Sequence[int] | Tensor | None = None,
                 other: Sequence[int] | Tensor | None = None, center: bool = True) -> PairSummary:
    """Cosines and angles between class means (or classifier vectors): NC2, and inter-class prototype angles (ICPA).

    Args:
        vectors (Tensor): Class means or classifier weight, shape (K, d); absent classes NaN.
        group (Sequence[int], optional): The pairs within these classes. Defaults to None: within all.
        other (Sequence[int], optional): Classes disjoint from ``group``: pairs with one of each. Defaults to None.
        center (bool): Whether to subtract the mean of all K rows first. Defaults to True.

    Returns:
        PairSummary: Over the pairs of classes whose vectors have a direction.

    Example:
        >>> summary = pair_summary(torch.eye(10))
        >>> round(summary.cosine_mean, 4), round(summary.angle_mean, 1)
        (-0.1111, 96.4)
    """
    unit = _unit(vectors, center)
    optimum = -1 / max(int(_present(vectors).sum()) - 1, 1)
    first = unit if group is None else unit[_index(group, unit)]
    blocks: Iterator[Tensor]
    if other is None:
        blocks = _pairs(first)
    else:
        second = _directed(unit[_index(other, unit)]).T
        blocks = ((rows @ second).clamp(-1, 1).flatten() for rows in _directed(first).split(BLOCK))
    cosines, gaps, angles = _Moments(), _Moments(), _Moments()
    for pairs in blocks:
        cosines.add(pairs)
        gaps.add((pairs - optimum).abs())
        angles.add(pairs.acos().rad2deg())
    return PairSummary(cosines.mean, cosines.std, gaps.mean, angles.min, angles.mean, angles.std)


def equiangularity(vectors: Tensor, center: bool = True) -> float:
    """NC2: standard deviation of the cosines over all pairs of classes; 0 for an ETF, NaN without a pair."""
    return pair_summary(vectors, center=center).cosine_std


def max_angle_gap(vectors: Tensor, center: bool = True) -> float:
    """NC2: mean distance of the cosines from the ETF's -1/(K'-1); 0 for an ETF, NaN without a pair."""
    return pair_summary(vectors, center=center).cosine_gap


def equinorm(vectors: Tensor, center: bool = True) -> float:
    """NC2: standard deviation of the vectors' lengths over their mean; 0 for an ETF, NaN without a length."""
    rows, scale = _centre(vectors[_present(vectors)], center)
    norms = rows.norm(dim=1)
    if len(norms) < 2 or not bool(norms.max() > 1e-12 * scale):
        return NAN
    return float(norms.std(correction=0) / norms.mean())


def nearest_angles(vectors: Tensor, center: bool = True) -> Tensor:
    """Angle of each class to its nearest other class in degrees, (K,) float64; NaN where there is none."""
    unit = _unit(vectors, center)
    directed = ~unit.isnan().any(1)
    nearest = unit.new_full(directed.shape, NAN)
    if int(directed.sum()) > 1:
        nearest[directed] = row_max_cosines(unit[directed]).clamp(-1, 1).acos().rad2deg()
    return nearest


def _index(classes: Sequence[int] | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(classes, dtype=torch.int64, device=like.device)


def etf_distance(vectors: Tensor, center: bool = True) -> float:
    r"""NC2: distance of the Gram matrix from that of a simplex ETF, both at unit Frobenius norm.

    .. math:: \left\| \frac{G}{\|G\|_F} - \frac{I - 11^\top / K'}{\sqrt{K' - 1}} \right\|_F \in [0, 2],
        \quad G = M M^\top

    Args:
        vectors (Tensor): Class means or classifier weight, shape (K, d).
        center (bool): Whether to subtract the mean of the rows first. Defaults to True.

    Returns:
        float: 0 for an ETF of any size; NaN for fewer than two classes, or vectors that are all zero. With more than
        d + 1 classes it cannot vanish.
    """
    rows, scale = _centre(vectors[_present(vectors)], center)
    return _gram_distance(rows, rows, scale**2)


def product_duality(weight: Tensor, means: Tensor) -> float:
    r"""NC3 in its product form: :func:`etf_distance` of :math:`W M^\top` (`Zhu et al. <https://arxiv.org/abs/2105.02375>`_).

    It mixes NC2 and NC3: it vanishes only if classifier and centred means agree *and* form an ETF.

    Args and NaN as in :func:`self_duality`.
    """
    weight, rows, _ = _aligned(weight, means, False)
    scale = means.nan_to_num(0).to(rows).norm(dim=1).max() if len(rows) else rows.new_tensor(NAN)
    return _gram_distance(weight, rows, scale * weight.norm(dim=1).max() if len(rows) else scale)


def _gram_distance(left: Tensor, right: Tensor, scale: Tensor) -> float:
    """Distance of left @ right.T from a simplex's Gram matrix, in blocks of rows."""
    classes = len(left)
    if classes < 2:
        return NAN
    # |L R^T|^2 = <L^T L, R^T R>: through d x d where that is smaller
    if classes > left.size(1):
        square = ((left.T @ left) * (right.T @ right)).sum()
    else:
        square = (left @ right.T).square().sum()
    norm = square.clamp(min=0).sqrt()
    if not bool(norm > 1e-12 * scale):
        return NAN
    total = left.new_zeros(())
    root = math.sqrt(classes - 1)
    for start in range(0, classes, BLOCK):
        gap = left[start:start + BLOCK] @ right.T / norm + 1 / (classes * root)
        gap.diagonal(start).sub_(1 / root)
        total += gap.square().sum()
    return float(total.sqrt())


def _aligned(weight: Tensor, means: Tensor, center_weight: bool, center_means: bool = True
             ) -> tuple[Tensor, Tensor, Tensor]:
    if weight.shape != means.shape:
        raise ValueError('Classifier weight and class means must have the same shape (K, d), but got '
                         f'{tuple(weight.shape)} and {tuple(means.shape)}.')
    present = _present(means) & _present(weight)
    return _centre(weight[present], center_weight)[0], _centre(means[present], center_means)[0], present


def self_duality(weight: Tensor, means: Tensor, center_weight: bool = False, num_per_class: Tensor | None = None
                 ) -> float:
    r"""NC3 in Papyan's form: distance of the classifier from the centred class means, both at unit Frobenius norm.

    .. math:: \left\| \frac{W}{\|W\|_F} - \frac{M}{\|M\|_F} \right\|_F \in [0, 2]

    Some code logs the square of it, and centres by the mean of all samples instead of the mean of the classes.

    Args:
        weight (Tensor): Classifier vectors, shape (K, d).
        means (Tensor): Class means, shape (K, d), not centred; absent classes NaN.
        center_weight (bool): Whether to centre the classifier, too. Defaults to False.
        num_per_class (Tensor, optional): Sample counts (K,), to centre the means by the mean of the samples. Defaults
            to None: by the mean of the class means.

    Returns:
        float: 0 when classifier and means agree; NaN when one of them is zero.

    Example:
        >>> round(self_duality(torch.eye(3), 5 * torch.eye(3), center_weight=True), 6)
        0.0
    """
    rows, centred, present = _aligned(weight, means, center_weight, num_per_class is None)
    if num_per_class is not None:
        counts = num_per_class.to(centred)[present]
        centred = centred - (counts @ centred) / counts.sum()
    if not len(rows):
        return NAN
    scale = means[present].to(centred).norm(dim=1).max()
    if not bool(centred.norm() > 1e-12 * scale):
        return NAN
    return float((rows / rows.norm() - centred / centred.norm()).norm())


def aligned_cosines(weight: Tensor, means: Tensor, center_weight: bool = False, center_means: bool = True) -> Tensor:
    """NC3 by class: cosine between a class's vector of the classifier and its centred mean; 1 when they agree.

    Args:
        weight (Tensor): Classifier vectors, shape (K, d).
        means (Tensor): Class means, shape (K, d), not centred; absent classes NaN.
        center_weight (bool): Whether to centre the classifier, too. Defaults to False.
        center_means (bool): Whether to centre the means; GNC3 does not. Defaults to True.

    Returns:
        Tensor: (K,) float64, NaN for absent classes and for vectors without a direction.
    """
    if weight.shape != means.shape:
        _aligned(weight, means, False)
    present = _present(means) & _present(weight)
    cosines = means.new_full(present.shape, NAN, dtype=torch.float64)
    cosines[present] = (_unit(weight[present], center_weight) * _unit(means[present], center_means)).sum(1)
    return cosines


def group_cosine(vectors: Tensor, group: Sequence[int] | Tensor, center: bool = False) -> float:
    """Mean cosine over the pairs within a group of classes; NaN with fewer than two defined vectors in it.

    Args:
        vectors (Tensor): Class means or classifier weight, shape (K, d).
        group (Tensor): Class indices, shape (G,).
        center (bool): Whether to subtract the mean of all K rows first. Defaults to False.
    """
    return pair_summary(vectors, group, center=center).cosine_mean


def minority_classes(num_per_class: Sequence[int] | Tensor) -> Tensor:
    """The tail where none is given: classes with at most as many samples as the K/2-th smallest class.

    Example:
        >>> minority_classes([500, 100, 20, 5])
        tensor([2, 3])
    """
    counts = torch.as_tensor(num_per_class)
    smallest = counts.sort().values
    return (counts <= smallest[max(len(counts) // 2 - 1, 0)]).nonzero().flatten()


def minority_collapse_index(vectors: Tensor, num_per_class: Sequence[int] | Tensor,
                            tail: Sequence[int] | Tensor | None = None, center: bool = False) -> float:
    r"""How far the vectors of the tail classes have fallen together.

    `Layer-peeled model <https://arxiv.org/abs/2101.12699>`_: under strong imbalance, cross-entropy merges the
    classifier vectors of the minority classes. With the mean cosine :math:`c` over pairs of tail classes,

    .. math:: \text{MCI} = \frac{c + \frac{1}{K-1}}{1 + \frac{1}{K-1}},

    which is 0 at the simplex ETF, 1 at full collapse, and negative where the tail is spread wider than an ETF.

    Args:
        vectors (Tensor): Classifier weight (or class means), shape (K, d).
        num_per_class (Tensor): Training counts, shape (K,).
        tail (Tensor, optional): Indices of the tail classes; by default :func:`minority_classes`.
        center (bool): Whether to subtract the mean of the rows first. Defaults to False.

    Returns:
        float: The index; NaN with fewer than two tail classes.

    Raises:
        ValueError: if the counts are not one per vector.

    Example:
        >>> round(minority_collapse_index(torch.ones(4, 2), torch.tensor([100, 100, 5, 5])), 6)
        1.0
    """
    counts = torch.as_tensor(num_per_class)
    if counts.shape != vectors.shape[:1]:
        raise ValueError(f'num_per_class must hold one count for each of the {len(vectors)} classes, but has shape '
                         f'{tuple(counts.shape)}.')
    if len(vectors) < 2:
        return NAN
    optimum = -1 / (len(vectors) - 1)
    return (group_cosine(vectors, minority_classes(counts) if tail is None else tail, center) - optimum) / (1 - optimum)


def norm_ratio(vectors: Tensor, tail: Sequence[int] | Tensor) -> float:
    """Mean length of the vectors outside of the tail over that of those in it; NaN if either is empty or zero."""
    norms = vectors.detach().to(torch.float64).norm(dim=1)
    inside = torch.zeros(len(norms), dtype=torch.bool, device=norms.device)
    inside[_index(tail, norms)] = True
    known = ~norms.isnan()
    below = norms[inside & known].mean()
    return float(norms[~inside & known].mean() / below) if bool(below > 0) else NAN


def gnc2(weight: Tensor, means: Tensor | None = None) -> float:
    r"""GNC2: proven lower bound of the least one-vs-rest distance of the unit classifier vectors.

    .. math:: \min_k \operatorname{dist}(\hat w_k, \operatorname{conv}\{\hat w_j\}_{j \ne k}) \ge
        \min_k \max_h \min_{j \ne k} \langle \hat w_k - \hat w_j, h \rangle

    (:func:`one_vs_rest_lower_bounds`; :func:`one_vs_rest_distance` has the exact value) where h runs over the
    directions tried: the vector itself, which is optimal at a softmax code without rattlers, and the class mean. Higher
    is better. Costs one product of K x d by d x K for each, in blocks of rows.

    Args:
        weight (Tensor): Classifier vectors, shape (K, d); absent classes NaN.
        means (Tensor, optional): Class means to try as directions, shape (K, d). Defaults to None.

    Returns:
        float: The bound; K/(K-1) for a simplex ETF. Not positive where a vector lies among the others. NaN for fewer
        than two vectors that have a direction.

    Example:
        >>> round(gnc2(torch.eye(3) - 1 / 3), 6)
        1.5
    """
    unit = _unit(weight, False)
    directed = ~unit.isnan().any(1)
    unit = unit[directed]
    if len(unit) < 2:
        return NAN
    bounds = one_vs_rest_lower_bounds(unit)
    if means is not None:
        for center in (False, True):
            directions = _unit(means, center)[directed]
            directions = torch.where(directions.isnan(), unit, directions)
            bounds = torch.maximum(bounds, one_vs_rest_lower_bounds(unit, directions))
    return float(bounds.min())


def collapse_measures(stats: ClassStatistics,
                      weight: Tensor | None = None,
                      *,
                      second: SecondPass | None = None,
                      unit_stats: ClassStatistics | None = None,
                      num_per_class: Sequence[int] | Tensor | None = None,
                      groups: Mapping[str, Sequence[int]] | None = None,
                      tail: Sequence[int] | Tensor | None = None) -> tuple[dict[str, float], dict[str, str]]:
    """Every measure of collapse of one model on one set of samples.

    The names are always the same, so that curves have no gaps in their legend; only those by group depend on
    ``groups``. ``_means`` are centred class means, ``_classifier`` the classifier vectors as they are and
    ``_classifier_centred`` those minus their mean. Optimum and meaning:

    - ``nc1``, ``nc1_balanced`` (classes of equal weight), ``nc1_quotient`` (of traces), ``nc1_class_mean``,
      ``nc1_class_max`` (:func:`nc1_per_class`), ``cdnv_mean``, ``cdnv_median``, ``cdnv_max``: 0. ``cdnv_skipped``:
      pairs of classes with equal means;
    - for each of ``_means``, ``_classifier``, ``_classifier_centred``: ``nc2_equinorm``, ``nc2_equiangularity``,
      ``nc2_angle_gap``, ``nc2_etf_distance``: 0; ``cosine_mean``: -1/(K'-1); ``angle_min``, ``angle_mean``,
      ``angle_std`` in degrees; ``collapsed``: vectors without a direction;
    - ``nc3``, ``nc3_centred`` (classifier centred, too), ``nc3_product``: 0; ``nc3_squared_sample``, the square of nc3
      with means centred by the mean of the samples, which the code of ETF + DR logs; ``nc3_cosine_mean`` and
      ``nc3_cosine_min``, also ``_centred``: 1;
    - ``nc4_agreement``, ``nc4_agreement_balanced`` (over classes) of classifier and nearest class mean: 1;
      ``nc4_disagreement``: 0; ``ncc_accuracy``, ``ncc_accuracy_balanced`` of the nearest class mean;
    - ``gnc1``: 0; ``gnc2`` (:func:`gnc2`): higher is better; ``gnc3`` and ``gnc3_centred``: 0 (the latter has a floor
      for codes that do not sum to zero). ``gnc_zero_features``: samples without a direction, left out;
    - ``mci``, ``mci_means`` (:func:`minority_collapse_index`): 0, and 1 at full minority collapse;
      ``tail_cosine_means``, ``tail_cosine_classifier``; ``norm_ratio`` of the classifier vectors, head over tail: 1;
    - ``num_samples``, ``num_present`` (K'), ``etf_feasible`` (1 if K' <= d + 1);
    - with ``groups``: ``nc1_class_{g}``, ``nc3_cosine_{g}``, and the angles of means and classifier within and between
      groups, ``angle_mean_means_{g}``, ``angle_min_classifier_{g}_{h}``, ...

    Cost: one singular value decomposition and some ten products (K, d) x (d, K), in blocks of rows.

    Args:
        stats (ClassStatistics): Of the features that the classifier reads. For a cosine classifier, of unit features.
        weight (Tensor, optional): Classifier vectors, shape (K, d). Defaults to None: there is none.
        second (SecondPass, optional): For NC4, NCC accuracy and balanced NC1. Defaults to None.
        unit_stats (ClassStatistics, optional): Of L2-normalised features, for GNC1 and GNC3. Defaults to None.
        num_per_class (Sequence[int], optional): Training counts, which say what the tail is. Defaults to None: those of
            ``stats``.
        groups (Mapping[str, Sequence[int]], optional): Class indices under 'many', 'medium', 'few', or other names.
            Defaults to None.
        tail (Sequence[int], optional): The tail of the minority-collapse index; by default :func:`minority_classes`.

    Returns:
        tuple[dict[str, float], dict[str, str]]: The measures, and for each one that is NaN the reason.

    Raises:
        ValueError: if the classifier does not have the shape of the class means, or the counts are not one per class.

    Example:
        >>> stats = ClassStatistics(3, 3)
        >>> stats.update(torch.eye(3), torch.arange(3))
        >>> measures, reasons = collapse_measures(stats)
        >>> measures['nc1'], round(measures['nc2_etf_distance_means'], 6), reasons['nc3']
        (0.0, 0.0, 'no classifier vectors')
    """
    _check_weight(weight, stats)
    num_classes, dim = stats.means.shape
    means, present = stats.class_means(), stats.present
    num_present = int(present.sum())
    counts = stats.counts if num_per_class is None else torch.as_tensor(num_per_class)
    rare = minority_classes(counts) if tail is None else _index(tail, counts)
    raw = torch.full_like(means, NAN) if weight is None else weight.detach().to(means)
    classifier = raw.masked_fill(~present[:, None], NAN)
    measures: dict[str, float] = {}
    reasons: dict[str, str] = {}

    def add(names: str | Sequence[str], undefined: str | None, reason: str, measure: Callable, *args: object) -> None:
        """Put in measures; they are undefined for the first reason, or else, where NaN comes out, for the second."""
        names = [names] if isinstance(names, str) else names
        values = [NAN] * len(names) if undefined else measure(*args)
        for name, value in zip(names, [values] if isinstance(values, float) else values, strict=True):
            measures[name] = float(value)
            if math.isnan(measures[name]):
                reasons[name] = undefined or reason

    few = None if num_present > 1 else f'{num_present} of {num_classes} classes have samples, and two are needed'
    unweighted = few or (None if weight is not None else 'no classifier vectors')
    infeasible = None if num_present <= dim + 1 else (
        f'no simplex ETF of {num_present} classes exists in {dim} dimensions; see gnc2')
    unscattered = 'no scatter matrix was accumulated'
    equal = 'all class means are equal'
    zero = f'{equal}, or the classifier is zero'
    undirected = 'fewer than two vectors have a direction'
    measures.update(num_samples=float(stats.counts.sum()), num_present=float(num_present),
                    etf_feasible=float(infeasible is None))

    per_class = nc1_per_class(stats)
    add('nc1', few or (unscattered if stats.scatter is None else None), equal, nc1, stats)
    add('nc1_quotient', few, equal, nc1_quotient, stats)
    add(['nc1_class_mean', 'nc1_class_max'], few, f'no class has two samples, or {equal}', _mean_and, torch.max,
        per_class)
    add(['cdnv_mean', 'cdnv_median', 'cdnv_max', 'cdnv_skipped'], few, equal, cdnv, stats)

    for what, vectors, center in (('means', means, True), ('classifier', classifier, False),
                                  ('classifier_centred', classifier, True)):
        undefined = few if what == 'means' else unweighted
        add(f'nc2_equinorm_{what}', undefined, 'all vectors are equal', equinorm, vectors, center)
        add([f'{kind}_{what}' for kind in _PAIRS], undefined, undirected, pair_summary, vectors, None, None, center)
        add(f'nc2_etf_distance_{what}', undefined or infeasible, 'all vectors are equal', etf_distance, vectors, center)
        add(f'collapsed_{what}', undefined, '', _count_undirected, vectors, center)

    aligned = aligned_cosines(classifier, means)
    for suffix, centred in (('', False), ('_centred', True)):
        cosines = aligned_cosines(classifier, means, centred) if centred else aligned
        add(f'nc3{suffix}', unweighted, zero, self_duality, classifier, means, centred)
        add([f'nc3_cosine_mean{suffix}', f'nc3_cosine_min{suffix}'], unweighted, zero, _mean_and, torch.min, cosines)
    add('nc3_squared_sample', unweighted, zero, _squared, self_duality, classifier, means, False, stats.counts)
    add('nc3_product', unweighted or infeasible, zero, product_duality, classifier, means)

    once = few or (None if second is not None else 'needs a second pass over the samples')
    hits = second.agreements if second is not None else None
    unmatched = unweighted or once or (None if hits is not None else 'the second pass had no classifier vectors')
    unseen = 'the second pass saw no samples'
    add('nc1_balanced', once, equal, nc1_balanced, second)
    add(['nc4_agreement', 'nc4_agreement_balanced'], unmatched, unseen, _rates, hits, second)
    add('nc4_disagreement', reasons.get('nc4_agreement'), '', float, 1 - measures['nc4_agreement'])
    add(['ncc_accuracy', 'ncc_accuracy_balanced'], once, unseen, _rates, second.correct if second else None, second)

    unnormalised = few or (None if unit_stats is not None else 'no statistics of normalised features')
    units = stats if unit_stats is None else unit_stats
    directions = units.class_means()
    add('gnc1', unnormalised or (unscattered if units.scatter is None else None), equal, nc1, units)
    add('gnc2', unweighted, undirected, gnc2, classifier, directions)
    for name, centred in (('gnc3', False), ('gnc3_centred', True)):
        cosines = 1 - aligned_cosines(classifier, directions, False, centred)
        add(name, unweighted or unnormalised, zero, _mean, cosines)
    add('gnc_zero_features', unnormalised, '', float, stats.counts.sum() - units.counts.sum())

    lonely = None if len(rare) > 1 else f'the tail has {len(rare)} class, and two are needed'
    add('mci', unweighted or lonely, undirected, minority_collapse_index, raw, counts, rare)
    add('mci_means', few or lonely, undirected, minority_collapse_index, means, counts, rare, True)
    add('tail_cosine_classifier', unweighted or lonely, undirected, group_cosine, raw, rare)
    add('tail_cosine_means', few or lonely, undirected, group_cosine, means, rare, True)
    add('norm_ratio', unweighted, 'head or tail is empty, or the vectors of the tail are zero', norm_ratio, raw, rare)

    groups = groups or {}
    for i, (name, group) in enumerate(groups.items()):
        index = _index(group, means)
        add(f'nc1_class_{name}', few, 'no class of the group has two samples', _mean, per_class[index])
        add(f'nc3_cosine_{name}', unweighted, 'no class of the group has samples', _mean, aligned[index])
        for other in [None, *list(groups)[i + 1:]]:
            where, partners = (name, None) if other is None else (f'{name}_{other}', groups[other])
            for what, vectors, center in (('means', means, True), ('classifier', classifier, False)):
                add([f'{kind}_{what}_{where}' for kind in _ANGLES], few if what == 'means' else unweighted,
                    'no pair of classes', _angles, vectors, group, partners, center)
    return measures, reasons


_ANGLES = ('angle_min', 'angle_mean', 'angle_std')
_PAIRS = ('cosine_mean', 'nc2_equiangularity', 'nc2_angle_gap', *_ANGLES)


def _angles(*args) -> tuple[float, ...]:
    return pair_summary(*args)[-len(_ANGLES):]


def _mean(values: Tensor) -> float:
    """Mean of the defined values."""
    return float(values.nanmean())


def _mean_and(extreme: Callable[[Tensor], Tensor], values: Tensor) -> tuple[float, float]:
    values = values[~values.isnan()]
    return (float(values.mean()), float(extreme(values))) if len(values) else (NAN, NAN)


def _squared(measure: Callable[..., float], *args) -> float:
    return measure(*args)**2


def _count_undirected(vectors: Tensor, center: bool) -> float:
    return float(_present(vectors).sum()) - len(_directed(_unit(vectors, center)))


def _rates(hits: Tensor, second: SecondPass) -> tuple[float, float]:
    """Share of the samples, and mean of the classes' shares."""
    shares = hits.double() / second.counts
    return float(hits.sum().double() / second.counts.sum()), float(shares.nanmean())
