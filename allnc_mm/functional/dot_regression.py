"""Dot regression onto a fixed code."""
import torch
from torch import Tensor

from .geometry import unit_rows

__all__ = ['dot_regression_loss']

FORMS = ('paper', 'released')
REDUCTIONS = ('none', 'mean', 'sum')


def dot_regression_loss(features: Tensor, labels: Tensor, codes: Tensor, *, form: str = 'paper',
                        normalize: bool | None = None, length: float = 1.0, reduction: str = 'mean') -> Tensor:
    r"""Dot regression: pull every feature to the fixed code vector of its class, and push from none.

    From `Inducing Neural Collapse in Imbalanced Learning: Do We Really Need a Learnable Classifier at the End of Deep
    Neural Network? <https://arxiv.org/abs/2203.09081>`_. With m the code vector of the label and h the feature,

    .. math::
        L_{paper} = \frac{(m^T h - |m| l)^2}{2 |m| l}, \qquad
        L_{released} = \frac{(m^T h - |m| |h|)^2}{2 |h|}

    where l is ``length`` and all lengths are constants for the gradient. For normalised features the first is
    :math:`|m| l (\cos - 1)^2 / 2`. The second is the authors' code; on raw features its value is
    :math:`|m|^2 |h| (\cos - 1)^2 / 2` and its gradient :math:`-|m| (1 - \cos) m`, whatever the length of h. On unit
    features and codes both are one and the same, with gradient :math:`-(1 - \cos) m` for the unit feature.

    Args:
        features (Tensor): Features h, shape (N, d), any floating type; the arithmetic is at least float32, under
            autocast too.
        labels (Tensor): Class indices, shape (N,), or soft labels, shape (N, K): the sum of the classes' losses,
            weighted by the label.
        codes (Tensor): Code vectors m, shape (K, d). They may carry a gradient (a learnable rotation).
        form (str): 'paper' or 'released'. Defaults to 'paper'.
        normalize (bool, optional): Whether to normalise features to ``length`` first. With 'paper', leave it off only
            for features that have that length already: the part of a free feature orthogonal to m is not constrained.
            Defaults to None: on for 'paper', off for 'released'.
        length (float): Length that features are normalised to, :math:`\sqrt{E_H}`. Defaults to 1.
        reduction (str): 'none', 'mean' or 'sum'; the mean of no samples is 0. Defaults to 'mean'.

    Returns:
        Tensor: A scalar, or shape (N,) for 'none'. A zero feature counts as one at a right angle.

    Raises:
        ValueError: for an unknown form or reduction, a length that is not positive, and shapes that do not fit.

    Example:
        >>> codes = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> features = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> dot_regression_loss(features, torch.tensor([0, 1]), codes, reduction='none')
        tensor([0.0000, 0.5000])
    """
    if form not in FORMS:
        raise ValueError(f'Expected argument `form` to be one of {FORMS}, but got {form!r}.')
    if reduction not in REDUCTIONS:
        raise ValueError(f'Expected argument `reduction` to be one of {REDUCTIONS}, but got {reduction!r}.')
    if not length > 0:
        raise ValueError(f'Expected argument `length` to be positive, but got {length}.')
    if features.ndim != 2 or codes.ndim != 2 or features.shape[1] != codes.shape[1]:
        raise ValueError('Expected `features` of shape (N, d) and `codes` of shape (K, d), but got '
                         f'{tuple(features.shape)} and {tuple(codes.shape)}; the code must have the dimension of the '
                         'features (pool feature maps first).')
    hard = labels.ndim == 1 and len(labels) == len(features) and not labels.is_floating_point()
    if not hard and labels.shape != (len(features), len(codes)):
        raise ValueError(f'Expected `labels` to be class indices of shape ({len(features)},) or soft labels of shape '
                         f'({len(features)}, {len(codes)}), but got {labels.dtype} of shape {tuple(labels.shape)}.')

    dtype = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        h, m = features.to(dtype), codes.to(dtype)
        if form == 'paper' if normalize is None else normalize:
            h = length * unit_rows(h)
        # Lengths are summed in float64: the square of a large float32 feature would overflow.
        code_length = torch.linalg.vector_norm(m.detach(), dim=1, dtype=torch.float64).to(dtype)
        if form == 'paper':
            feature_length, factor = h.new_full((len(h), 1), length), 0.5 / code_length.clamp_min(1e-8)
        else:
            feature_length = torch.linalg.vector_norm(h.detach(), dim=1, keepdim=True, dtype=torch.float64)
            feature_length = feature_length.clamp_min(1e-8).to(dtype)
            factor = torch.full_like(code_length, 0.5)
        h = h / feature_length
        if hard:
            gap = (h * m[labels]).sum(dim=1) - code_length[labels]
            loss = feature_length.squeeze(1) * factor[labels] * gap.square()
        else:
            gap = h @ m.T - code_length
            loss = feature_length.squeeze(1) * (labels.to(dtype) * factor * gap.square()).sum(dim=1)
    if reduction == 'none':
        return loss
    return loss.sum() / (max(len(loss), 1) if reduction == 'mean' else 1)
