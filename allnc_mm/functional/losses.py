"""The losses of All-around Neural Collapse and the re-balanced cross-entropy.

HyCon and P2P follow the published description of AllNC (arXiv 2408.07253; IEEE TKDE 37(8), 2025). Its equations are
not openly readable, so the forms here are an implementation from that description; every choice of ours is a switch.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .geometry import unit_rows
from .prototypes import full_precision, one_hot

__all__ = ['hycon_loss', 'p2p_loss', 'p2p_terms', 'cosine_moments', 'logit_adjusted_cross_entropy', 'HYCON_POSITIVES',
           'P2P_TARGETS']

HYCON_POSITIVES = ('view', 'class', 'mean')
P2P_TARGETS = ('etf', 'hinge')
_BLOCK = 2048  # rows of a Gram matrix that exist at a time: K=8142 never forms K x K


def check_positives(positives: Sequence[str], negatives: bool) -> None:
    """Refuse a selection of positives that :func:`hycon_loss` does not know, by a ValueError."""
    if not positives or set(positives) - set(HYCON_POSITIVES):
        raise ValueError(f'Expected `positives` to be a non-empty selection of {HYCON_POSITIVES}, but got {positives}.')
    if 'class' in positives and not negatives:
        raise ValueError("`positives` with 'class' needs `negatives=True`; without negatives the class enters by its "
                         "mean: use 'mean'.")


@full_precision
def hycon_loss(pred: Tensor,
               target: Tensor,
               labels: Tensor,
               prototypes: Tensor | None = None,
               *,
               present: Tensor | None = None,
               num_classes: int | None = None,
               num_views: int = 1,
               positives: Sequence[str] = ('view', 'mean'),
               negatives: bool = False,
               temperature: float = 0.1,
               class_average: bool = True,
               class_balanced: bool = False,
               stop_gradient: bool = True) -> Tensor:
    r"""HyCon: pull each activation to its paired view and to the mean of its class (NC1).

    Without negatives (the default), with p the predictions, g the targets, nu the class means, all of unit length and
    sg the stop-gradient,

    .. math::
        L = -\frac{1}{V} \sum_v \operatorname{mean}_i
            \left[ \cos(p_i^v, sg\, g_i^{v'}) + \cos(p_i^v, sg\, \nu_{y_i}) \right]

    so the minimum is minus the number of terms. With ``negatives=True`` it is the InfoNCE loss over the same positives
    (and, with ``'class'``, all samples of the class), whose denominator averages within each class and then sums
    over classes, as in balanced contrastive learning (BCL, Zhu et al., CVPR 2022): a head class with many samples does
    not outweigh a tail class. Without that average (``class_average=False``) it is the supervised contrastive loss
    (Khosla et al., NeurIPS 2020).

    Args:
        pred (Tensor): Shape (V*M, p), view-major: row ``v*M + i`` is view v of sample i. Any floating dtype; the
            arithmetic is float32. Scale does not matter.
        target (Tensor): Shape (V*M, p), the same rows before the predictor.
        labels (Tensor): Shape (V*M,) integers, or (V*M, K) soft labels: the mean of a mixture is the mixture of means.
            A row of zeros is padding: it is neither an anchor nor a key.
        prototypes (Tensor, optional): Class means, shape (K, p). Needed when 'mean' is among the positives.
        present (Tensor, optional): bool (K,), which prototypes exist. Defaults to all.
        num_classes (int, optional): K; needed for integer labels without prototypes.
        num_views (int): V. With one view the view term vanishes. Defaults to 1.
        positives (Sequence[str]): Among 'view', 'class', 'mean'; 'class' needs ``negatives=True``. Defaults to
            ('view', 'mean').
        negatives (bool): Use the InfoNCE form. Defaults to False.
        temperature (float): Of the InfoNCE form. Defaults to 0.1.
        class_average (bool): Average the denominator of the InfoNCE form within each class. Defaults to True.
        class_balanced (bool): Average the anchors within each class, then over the classes present. Defaults to False.
        stop_gradient (bool): Treat targets and prototypes as constants. Defaults to True.

    Returns:
        Tensor: float32 scalar. An anchor with no positive (its class alone in the batch and without a mean) contributes
        nothing; if all are such, the loss is a zero with zero gradients.

    Raises:
        ValueError: for an unknown positive, or settings that contradict each other.

    Example:
        >>> g = torch.eye(2)
        >>> hycon_loss(g, g, torch.tensor([0, 1]), prototypes=g, positives=['mean']).item()
        -1.0
    """
    check_positives(positives, negatives)
    if 'mean' in positives and prototypes is None:
        raise ValueError("`positives` with 'mean' needs `prototypes` of shape (K, p).")
    if len(pred) % num_views:
        raise ValueError(f'Expected a multiple of num_views={num_views} rows, but got {len(pred)}.')

    if prototypes is not None:
        num_classes = len(prototypes)
    elif labels.ndim == 2:
        num_classes = labels.shape[1]
    elif num_classes is None:
        raise ValueError('Integer labels without `prototypes` need `num_classes`.')
    if stop_gradient:
        target = target.detach()
        prototypes = None if prototypes is None else prototypes.detach()
    pred, target = unit_rows(pred.float()), unit_rows(target.float())
    labels = one_hot(labels, num_classes)
    if 'mean' in positives:
        assert prototypes is not None
        prototypes = prototypes.float()
        if present is None:
            present = torch.ones(num_classes, dtype=torch.bool, device=pred.device)

    if negatives:
        value, valid = _info_nce(pred, target, labels, prototypes, present, num_views, positives, temperature,
                                 class_average)
    else:
        value, valid = _attraction(pred, target, labels, prototypes, present, num_views, positives)

    weight = (valid & (labels.sum(1) > 0)).float()
    if class_balanced:
        counts = labels.T @ weight
        weight = weight * (labels @ torch.where(counts > 0, 1 / counts.clamp_min(1e-12), 0.0))
    return (value * weight).sum() / weight.sum().clamp_min(1e-12)


def _attraction(pred, target, labels, prototypes, present, num_views, positives):
    """Negative cosine to the other views and to the class mean; (N,) values and which anchors have a positive."""
    value = (pred * 0.0).sum(1)  # a zero with a gradient, should no term apply
    valid = torch.zeros(len(pred), dtype=torch.bool, device=pred.device)
    if 'view' in positives and num_views > 1:
        per_view = target.view(num_views, -1, target.shape[1])
        others = (per_view.sum(0) - per_view).reshape(target.shape) / (num_views - 1)
        value = value - (pred * others).sum(1)
        valid = torch.ones_like(valid)
    if 'mean' in positives:
        mixture = labels * present
        mean = unit_rows(mixture @ prototypes)
        value = value - (pred * mean).sum(1)
        valid = valid | (mixture.sum(1) > 0)
    return value, valid


def _info_nce(pred, target, labels, prototypes, present, num_views, positives, temperature, class_average):
    """InfoNCE; (N,) values and which anchors have a positive."""
    num, dev = len(pred), pred.device
    itself = torch.eye(num, dtype=torch.bool, device=dev)
    keys, key_valid = target, ~itself & (labels.sum(1) > 0)
    positive = torch.zeros(num, num, device=dev)
    if 'class' in positives:
        positive = labels @ labels.T  # the probability that the two are of one class; 0 or 1 for hard labels
    if 'view' in positives:
        sample = torch.arange(num, device=dev) % (num // num_views)
        positive = torch.where(sample[:, None] == sample, 1.0, positive)
    positive = positive * key_valid
    if 'mean' in positives:
        keys = torch.cat([keys, unit_rows(prototypes)])
        key_valid = torch.cat([key_valid, present.expand(num, -1)], 1)
        positive = torch.cat([positive, labels * present], 1)

    share = key_valid.float()  # weight of key j in anchor i's denominator
    if class_average:  # sum over classes of its share of that class's keys (without i itself)
        size = share[:, :num] @ labels
        if 'mean' in positives:  # a mean is one key of its class: a row of the identity, which is K x K
            size = size + share[:, num:]
        inverse = torch.where(size > 0, 1 / size.clamp_min(1e-12), 0.0)
        of_samples = inverse @ labels.T
        share = share * (torch.cat([of_samples, inverse], 1) if 'mean' in positives else of_samples)
    logits = pred @ keys.T / temperature
    log_denominator = torch.logsumexp(logits.masked_fill(share <= 0, -torch.inf) + share.clamp_min(1e-30).log(), 1)

    mass = positive.sum(1)
    valid = mass > 0
    attraction = (positive * logits).sum(1) / torch.where(valid, mass, 1.0)
    return torch.where(valid, torch.where(valid, log_denominator, 0.0) - attraction, 0.0), valid


def p2p_loss(means: Tensor | None,
             weight: Tensor | None,
             *,
             present: Tensor | None = None,
             target: str | Tensor = 'etf',
             means_weight: float = 1.0,
             classifier_weight: float = 1.0,
             cross_weight: float = 1.0,
             norm_weight: float = 0.0) -> Tensor:
    r"""P2P: set every pair of class means and classifier vectors at the optimal angle (NC2 and NC3).

    With m_k, v_k the centred unit class means and classifier vectors, and T the target Gram matrix (for the simplex ETF
    1 on the diagonal and -1/(K-1) off it),

    .. math::
        L_{means} = \operatorname{mean}_{i \ne j} (m_i \cdot m_j - T_{ij})^2, \quad
        L_{classifier} = \operatorname{mean}_{i \ne j} (v_i \cdot v_j - T_{ij})^2, \quad
        L_{cross} = \operatorname{mean}_{i, j} (m_i \cdot v_j - T_{ij})^2

    The two Gram terms leave a rotation between means and classifier free; the cross term, whose zero alone forces
    m_k = v_k = simplex ETF when d >= K-1, removes it. Their weights are separate because their prices differ: the
    classifier's Gram term is free in accuracy, forcing the means is not. With d = K-1 exactly, a classifier that starts
    as the mirror image of the means can stay one (a local minimum, for small K); any larger d leads out of it.

    Centring takes out what the softmax of a linear classifier does not see, a common offset. A cosine classifier sees
    it, and P2P does not punish it there; a code that is not centred is then no zero of P2P's. With classes absent, the
    means are centred on those present and keep the target of all K, so a simplex has a small loss, too.

    Args:
        means (Tensor, optional): Class means, shape (K, d). None leaves out the terms that need them.
        weight (Tensor, optional): Classifier vectors, shape (K, d). None leaves out the terms that need them.
        present (Tensor, optional): bool (K,), which means exist; pairs with an absent one are left out, value and
            gradient. Defaults to all.
        target (str | Tensor): 'etf'; 'hinge', which punishes only cosines larger than the ETF's (for K > d + 1, where
            no ETF exists); or a code of shape (K, d') with unit rows whose Gram matrix is the target. Defaults to
            'etf'.
        means_weight, classifier_weight, cross_weight (float): Weights of the terms. Default to 1.
        norm_weight (float): Weight of the equal-norm term mean_k (|w_k| / mean|w| - 1)^2. Defaults to 0.

    Returns:
        Tensor: float32 scalar. Memory grows with K, not with K^2.

    Example:
        >>> w = torch.tensor([[1., 0.], [-1., 0.]])
        >>> p2p_loss(w, w).item()
        0.0
    """
    weights = dict(means=means_weight, classifier=classifier_weight, cross=cross_weight, norm=norm_weight)
    terms = p2p_terms(means, weight, present=present, target=target, terms=[k for k, v in weights.items() if v])
    reference = means if means is not None else weight
    assert reference is not None  # p2p_terms has refused two Nones
    return sum((weights[k] * v for k, v in terms.items()), reference.new_zeros((), dtype=torch.float32))


@full_precision
def p2p_terms(means: Tensor | None,
              weight: Tensor | None,
              *,
              present: Tensor | None = None,
              target: str | Tensor = 'etf',
              terms: Sequence[str] = ('means', 'classifier', 'cross'),
              sample: Tensor | None = None) -> dict[str, Tensor]:
    """The unweighted terms of :func:`p2p_loss` by name; arguments as there.

    Args:
        means, weight, present, target: As in :func:`p2p_loss`.
        terms (Sequence[str]): Which of 'means', 'classifier', 'cross' and 'norm'.
        sample (Tensor, optional): Distinct classes (S,), on whose pairs alone the terms but 'norm' are averaged;
            directions are still those from the mean of all classes. Defaults to all classes.

    Returns:
        dict[str, Tensor]: those of 'means', 'classifier', 'cross', 'norm' that are asked for and whose inputs are
        given.

    Raises:
        ValueError: if K < 2, the shapes of means, weight and code differ, or the target is unknown.
    """
    given = [x for x in (means, weight) if x is not None]
    if not given:
        raise ValueError('p2p needs `means`, `weight` or both.')
    num_classes = len(given[0])
    if num_classes < 2 or any(len(x) != num_classes for x in given):
        raise ValueError('Expected `means` and `weight` of one shape (K, d) with K >= 2, but got '
                         f'{[tuple(x.shape) for x in given]}.')
    if isinstance(target, str) and target not in P2P_TARGETS:
        raise ValueError(f'Expected `target` to be one of {P2P_TARGETS} or a code of shape (K, d), but got {target!r}.')
    if isinstance(target, Tensor) and (target.ndim != 2 or len(target) != num_classes):
        raise ValueError(f'Expected a target code with K={num_classes} rows, but got shape {tuple(target.shape)}.')
    everyone = torch.ones(num_classes, dtype=torch.bool, device=given[0].device)
    present = everyone if present is None else present

    m = None if means is None else _centred_directions(means, present, sample)
    v = None if weight is None else _centred_directions(weight, everyone, sample)
    if sample is not None and isinstance(target, Tensor):
        target = target[sample]
    off_diagonal = -1.0 / (num_classes - 1)
    out = {}
    if 'means' in terms and m is not None:
        out['means'] = _pair_error(m, m, target, off_diagonal, diagonal=False)
    if 'classifier' in terms and v is not None:
        out['classifier'] = _pair_error(v, v, target, off_diagonal, diagonal=False)
    if 'cross' in terms and m is not None and v is not None:
        if m[0].shape[1] != v[0].shape[1]:
            raise ValueError('The cross term needs `means` and `weight` of one dimension, but got '
                             f'{m[0].shape[1]} and {v[0].shape[1]}; set cross_weight=0.')
        both = (v[0], v[1] & m[1])
        if sample is None:
            out['cross'] = _pair_error(m, both, target, off_diagonal, diagonal=True)
        else:  # a sample has more than its share of the diagonal: 1 / S instead of 1 / K
            own = target.float().square().sum(1) if isinstance(target, Tensor) else 1.0
            matched = torch.where(both[1], (m[0] * v[0]).sum(1) - own, 0.0).square().sum() / both[1].sum().clamp_min(1)
            number = present.sum().clamp_min(1)
            others = _pair_error(m, both, target, off_diagonal, diagonal=False)
            out['cross'] = (matched + (number - 1) * others) / number
    if 'norm' in terms and weight is not None:
        norm = weight.float().norm(dim=1)
        out['norm'] = (norm / norm.mean().clamp_min(1e-12) - 1).square().mean()
    return out


def _centred_directions(x: Tensor, present: Tensor, sample: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Unit vectors from the mean of the present rows (unweighted: a simplex is centred on the mean of means).

    Those of the rows ``sample``, or of all. A row that lies on that mean up to rounding (a single class present, equal
    rows) has no direction and counts as absent; its gradient would be rounding errors over themselves.
    """
    x = torch.where(present[:, None], x.float(), 0.0)
    mean = x.sum(0) / present.sum().clamp_min(1)
    if sample is not None:
        x, present = x[sample], present[sample]
    centred = torch.where(present[:, None], x - mean, 0.0)
    off = centred.detach().abs().amax(1) > 1e-6 * x.detach().abs().amax()
    return unit_rows(torch.where(off[:, None], centred, 0.0)), off


def _pair_error(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], target: str | Tensor, off_diagonal: float,
                diagonal: bool) -> Tensor:
    """Mean squared distance of the cosines a_i.b_j to their target over the valid pairs, in row blocks.

    The target is a code, or 1 on the diagonal and ``off_diagonal`` off it.
    """
    (a, rows), (b, columns) = left, right
    num_classes = len(a)
    code = target.float() if isinstance(target, Tensor) else None
    pairs = rows.sum() * columns.sum()
    if not diagonal:
        pairs = pairs - (rows & columns).sum()
    if num_classes > max(_BLOCK, a.shape[1]) and (code is not None or target != 'hinge'):
        return _low_rank_pair_error(left, right, code, off_diagonal, diagonal) / pairs.clamp_min(1)

    def block_error(b: Tensor, index: Tensor) -> Tensor:
        cosine = a[index] @ b.T
        own = index[:, None] == torch.arange(num_classes, device=a.device)
        if code is not None:
            error = cosine - code[index] @ code.T
        else:
            error = cosine - torch.where(own, 1.0, off_diagonal)
            if target == 'hinge':
                error = torch.where(own, error, error.clamp_min(0))
        pair = rows[index][:, None] & columns
        if not diagonal:
            pair = pair & ~own
        return torch.where(pair, error, 0.0).square().sum()

    total = a.new_zeros(())
    for index in torch.arange(num_classes, device=a.device).split(_BLOCK):
        if num_classes <= _BLOCK:
            total = total + block_error(b, index)
        else:
            total = total + checkpoint(block_error, b, index, use_reentrant=False)
    return total / pairs.clamp_min(1)


def _low_rank_pair_error(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], code: Tensor | None,
                         off_diagonal: float, diagonal: bool) -> Tensor:
    """Sum of squared distances of the cosines to the target without a K x K matrix: |A B^T|^2 = <A^T A, B^T B>.

    O(K d^2) instead of O(K^2 d), for K well above d. The numbers are sums of K^2 squares, of which float32 keeps the
    first seven digits: enough, as K vectors in d < K - 1 dimensions are never at their target.
    """
    (a, rows), (b, columns) = left, right  # absent rows of a are zero: they have no direction
    same = left is right
    b = a if same else torch.where(columns[:, None], b, 0.0)
    own = (a * b).sum(1)
    both = (rows & columns).float()

    def inner(x: Tensor, y: Tensor, z: Tensor, w: Tensor) -> Tensor:
        """<x^T y, z^T w>; one product where left and right are the same."""
        product = x.T @ y
        return (product * (product if same else z.T @ w)).sum()

    total = inner(a, a, b, b)
    if code is not None:
        c = torch.where(rows[:, None], code, 0.0)
        e = c if same else torch.where(columns[:, None], code, 0.0)
        total = total - 2 * inner(a, c, b, e) + inner(c, c, e, e)
        return total if diagonal else total - (both * (own - code.square().sum(1)).square()).sum()
    total = total - 2 * off_diagonal * (a.sum(0) * b.sum(0)).sum() + off_diagonal**2 * rows.sum() * columns.sum()
    total = total - (both * (own - off_diagonal).square()).sum()
    return total + (both * (own - 1).square()).sum() if diagonal else total


@full_precision
def cosine_moments(x: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the pairwise cosines of centred rows, without forming them all.

    The cheap monitor of a training step, of 2048 evenly spaced rows if there are more;
    :mod:`allnc_mm.functional.collapse` has the measures. At a simplex ETF the mean is -1/(K-1) and the deviation 0.

    Args:
        x (Tensor): Shape (K, d).
        present (Tensor, optional): bool (K,), which rows count. Defaults to all.

    Returns:
        tuple[Tensor, Tensor]: float32 scalars; NaN with fewer than two directions.

    Example:
        >>> mean, std = cosine_moments(torch.eye(3)); round(mean.item(), 4), round(std.item(), 4)
        (-0.5, 0.0)
    """
    sample = torch.arange(_BLOCK, device=x.device) * len(x) // _BLOCK if len(x) > _BLOCK else None
    v, valid = _centred_directions(x, torch.ones_like(x[:, 0], dtype=torch.bool) if present is None else present,
                                   sample)
    gram = v @ v.T if len(v) <= v.shape[1] else v.T @ v  # their squared entries have one sum
    number = valid.sum()
    pairs = number * (number - 1)
    mean = (v.sum(0).square().sum() - number) / pairs
    square = (gram.square().sum() - number) / pairs
    return mean, (square - mean.square()).clamp_min(0).sqrt()


def logit_adjusted_cross_entropy(logits: Tensor, labels: Tensor, log_prior: Tensor, tau: float = 1.0) -> Tensor:
    """Cross-entropy of logits shifted by the log prior, per sample.

    Logit adjustment (Menon et al., ICLR 2021, eq. 10); with tau = 1 it is balanced softmax (Ren et al., NeurIPS 2020),
    with tau = 0 plain cross-entropy. At test time the raw logits are used.

    Args:
        logits (Tensor): Shape (N, K), or (N, K, H, W) of pixels; float32 arithmetic.
        labels (Tensor): Integers (N,) or (N, H, W), or soft labels in the shape of the logits.
        log_prior (Tensor): Shape (K,).
        tau (float): Strength. Defaults to 1.

    Returns:
        Tensor: float32 of shape (N,) or (N, H, W).

    Example:
        >>> loss = logit_adjusted_cross_entropy(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([.9, .1]).log())
        >>> round(loss.exp().item(), 4)
        10.0
    """
    logits = logits.float()
    if tau:
        logits = logits + tau * log_prior.view(-1, *[1] * (logits.ndim - 2))
    return F.cross_entropy(logits, labels.float() if labels.ndim == logits.ndim else labels, reduction='none')
