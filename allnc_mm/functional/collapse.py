"""Neural collapse: streaming class statistics, and how far features and classifier are from a simplex ETF.

Everything is float64. A measure that is undefined (one class, no sample, collapsed vectors) is NaN, never 0. Means and
classifier vectors are matrices (K, d) whose row k belongs to class k; rows of NaN stand for classes without samples and
are left out everywhere, so K' below is the number of classes that are present.

The measures NC1 to NC3 are those of `Prevalence of neural collapse <https://arxiv.org/abs/2008.08186>`_; the global
mean is the mean of the class means, as class counts must not move the centre of the simplex.
"""
import torch
from torch import Tensor

__all__ = [
    'ClassStatistics', 'aligned_cosines', 'equiangularity', 'equinorm', 'group_cosine', 'max_angle_gap',
    'minority_collapse_index', 'nc1', 'nc1_quotient', 'pairwise_cosines', 'self_duality'
]

NAN = float('nan')


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
            ValueError: if the shapes do not fit or a label is out of range.
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
        # Only the classes of this batch: with 8142 classes a dense (K, d) sum per batch would cost more than the model.
        classes, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
        means = features.new_zeros(len(classes), dim).index_add_(0, inverse, features) / counts[:, None]
        centred = features - means[inverse]
        traces = features.new_zeros(len(classes)).index_add_(0, inverse, centred.square().sum(1))
        self._merge(classes, counts, means, traces, None if self.scatter is None else centred.T @ centred)

    @torch.no_grad()
    def merge(self, other: 'ClassStatistics') -> None:
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
    def from_state_dict(cls, state: dict[str, Tensor]) -> 'ClassStatistics':
        """Rebuild statistics from :meth:`state_dict`; the tensors are copied."""
        num_classes, dim = state['means'].shape
        stats = cls(num_classes, dim, scatter='scatter' in state, device=state['means'].device)
        for name, value in state.items():
            setattr(stats, name, value.clone())
        return stats


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
    means, scale = _centre(stats.means[stats.present])
    if len(means) < 2:
        return NAN
    _, singular, right = torch.linalg.svd(means, full_matrices=False)
    if not bool(singular[0] > 1e-12 * scale):
        return NAN
    # The centring leaves rank K' - 1 at most; what is below the threshold is rounding, not geometry.
    keep = singular > 1e-10 * singular[0]
    right, singular = right[keep], singular[keep]
    within = ((right @ stats.scatter) * right).sum(1) / stats.counts.sum()
    return float((within / singular.square()).sum())


def nc1_quotient(stats: ClassStatistics) -> float:
    """The cheap NC1: trace of the within-class over trace of the between-class covariance (no scatter matrix needed).

    Returns:
        float: 0 at full collapse; NaN with fewer than two different class means.
    """
    means, scale = _centre(stats.means[stats.present])
    if len(means) < 2 or not bool(means.norm() > 1e-12 * scale):
        return NAN
    return float(stats.traces.sum() / stats.counts.sum() / (means.square().sum() / len(means)))


def _present(vectors: Tensor) -> Tensor:
    if vectors.dim() != 2:
        raise ValueError(f'Expected one vector per class, shape (K, d), but got shape {tuple(vectors.shape)}.')
    return ~vectors.isnan().any(1)


def _centre(vectors: Tensor, center: bool = True) -> tuple[Tensor, Tensor]:
    """Rows minus their mean, and the largest norm before that: the scale below which a difference is rounding."""
    vectors = vectors.detach().to(torch.float64)
    scale = vectors.norm(dim=1).max() if len(vectors) else vectors.new_tensor(NAN)
    return vectors - vectors.mean(0) if center else vectors, scale


def pairwise_cosines(vectors: Tensor, center: bool = True) -> Tensor:
    r"""Cosines between the class means, or the classifier vectors, of all pairs of classes.

    At a simplex ETF every pair of classes has the cosine :math:`-1/(K-1)`.

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
    present = _present(vectors)
    cosines = vectors.new_full((len(vectors), len(vectors)), NAN, dtype=torch.float64)
    if not bool(present.any()):
        return cosines
    rows, scale = _centre(vectors[present], center)
    norms = rows.norm(dim=1)
    unit = torch.where(norms > 1e-12 * scale, 1 / norms, NAN)[:, None] * rows
    index = present.nonzero().flatten()
    cosines[index[:, None], index] = (unit @ unit.T).clamp(-1, 1)
    diagonal = cosines.diagonal()
    diagonal[~diagonal.isnan()] = 1
    return cosines


def _pairs(cosines: Tensor) -> Tensor:
    """Defined cosines of the pairs i < j."""
    return cosines[torch.ones_like(cosines, dtype=torch.bool).triu(1) & ~cosines.isnan()]


def equiangularity(vectors: Tensor, center: bool = True) -> float:
    """NC2: standard deviation of the cosines over all pairs of classes; 0 for an ETF, NaN without a pair."""
    pairs = _pairs(pairwise_cosines(vectors, center))
    return float(pairs.std(correction=0)) if len(pairs) else NAN


def max_angle_gap(vectors: Tensor, center: bool = True) -> float:
    """NC2: mean distance of the cosines from the ETF's -1/(K'-1); 0 for an ETF, NaN without a pair."""
    pairs = _pairs(pairwise_cosines(vectors, center))
    num_present = int(_present(vectors).sum())
    return float((pairs + 1 / (num_present - 1)).abs().mean()) if len(pairs) else NAN


def equinorm(vectors: Tensor, center: bool = True) -> float:
    """NC2: standard deviation of the vectors' lengths over their mean; 0 for an ETF, NaN without a length."""
    rows, scale = _centre(vectors[_present(vectors)], center)
    norms = rows.norm(dim=1)
    if len(norms) < 2 or not bool(norms.max() > 1e-12 * scale):
        return NAN
    return float(norms.std(correction=0) / norms.mean())


def _aligned(weight: Tensor, means: Tensor, center_weight: bool) -> tuple[Tensor, Tensor, Tensor]:
    if weight.shape != means.shape:
        raise ValueError('Classifier weight and class means must have the same shape (K, d), but got '
                         f'{tuple(weight.shape)} and {tuple(means.shape)}.')
    present = _present(means) & _present(weight)
    return _centre(weight[present], center_weight)[0], _centre(means[present])[0], present


def self_duality(weight: Tensor, means: Tensor, center_weight: bool = False) -> float:
    r"""NC3 in Papyan's form: distance of the classifier from the centred class means, both at unit Frobenius norm.

    .. math:: \left\| \frac{W}{\|W\|_F} - \frac{M}{\|M\|_F} \right\|_F \in [0, 2]

    Some code logs the square of it.

    Args:
        weight (Tensor): Classifier vectors, shape (K, d).
        means (Tensor): Class means, shape (K, d), not centred; absent classes NaN.
        center_weight (bool): Whether to centre the classifier, too. Defaults to False.

    Returns:
        float: 0 when classifier and means agree; NaN when one of them is zero.

    Example:
        >>> round(self_duality(torch.eye(3), 5 * torch.eye(3), center_weight=True), 6)
        0.0
    """
    weight, means, _ = _aligned(weight, means, center_weight)
    return float((weight / weight.norm() - means / means.norm()).norm()) if len(weight) else NAN


def aligned_cosines(weight: Tensor, means: Tensor, center_weight: bool = False) -> Tensor:
    """NC3 by class: cosine between a class's vector of the classifier and its centred mean; 1 when they agree.

    Args and centring as in :func:`self_duality`.

    Returns:
        Tensor: (K,) float64, NaN for absent classes and for vectors without a direction.
    """
    weight, means, present = _aligned(weight, means, center_weight)
    cosines = means.new_full(present.shape, NAN)
    product = weight.norm(dim=1) * means.norm(dim=1)
    cosines[present] = torch.where(product > 0, (weight * means).sum(1) / product, NAN)
    return cosines


def group_cosine(vectors: Tensor, group: Tensor, center: bool = False) -> float:
    """Mean cosine over the pairs within a group of classes; NaN with fewer than two defined vectors in it.

    Args:
        vectors (Tensor): Class means or classifier weight, shape (K, d).
        group (Tensor): Class indices, shape (G,).
        center (bool): Whether to subtract the mean of all K rows first. Defaults to False.
    """
    index = torch.as_tensor(group, dtype=torch.int64, device=vectors.device)
    pairs = _pairs(pairwise_cosines(vectors, center)[index[:, None], index])
    return float(pairs.mean()) if len(pairs) else NAN


def minority_collapse_index(vectors: Tensor, num_per_class: Tensor, tail: Tensor | None = None,
                            center: bool = False) -> float:
    r"""How far the vectors of the tail classes have fallen together.

    `Layer-peeled model <https://arxiv.org/abs/2101.12699>`_: under strong imbalance, cross-entropy merges the
    classifier vectors of the minority classes. With the mean cosine :math:`c` over pairs of tail classes,

    .. math:: \text{MCI} = \frac{c + \frac{1}{K-1}}{1 + \frac{1}{K-1}},

    which is 0 at the simplex ETF, 1 at full collapse, and negative where the tail is spread wider than an ETF.

    Args:
        vectors (Tensor): Classifier weight (or class means), shape (K, d).
        num_per_class (Tensor): Training counts, shape (K,).
        tail (Tensor, optional): Indices of the tail classes; by default those with at most as many samples as the
            K/2-th smallest class.
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
    if tail is None:
        smallest = counts.sort().values
        tail = (counts <= smallest[max(len(counts) // 2 - 1, 0)]).nonzero().flatten()
    if len(vectors) < 2:
        return NAN
    optimum = -1 / (len(vectors) - 1)
    return (group_cosine(vectors, tail, center) - optimum) / (1 - optimum)
