"""Class sums, counts, means and their moving averages: the only place where features are grouped by label."""
import functools
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import unit_rows

__all__ = ['one_hot', 'class_statistics', 'class_means', 'ema_class_statistics', 'spherical_class_means',
           'straight_through']


_Function = TypeVar('_Function', bound=Callable)


def full_precision(function: _Function) -> _Function:
    """Run a function outside autocast: its inputs are cast to float32, and its matrix products have to stay there."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        device = next((x.device.type for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), 'cpu')
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Labels as rows of probabilities.

    Args:
        labels (Tensor): Integers of shape (N,), or soft labels of shape (N, K), which are returned in float32.
        num_classes (int): K.

    Returns:
        Tensor: float32 of shape (N, K).

    Example:
        >>> one_hot(torch.tensor([1, 0]), 2)
        tensor([[0., 1.],
                [1., 0.]])
    """
    if labels.ndim == 2:
        return labels.float()
    return F.one_hot(labels, num_classes).float()


@full_precision
def class_statistics(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sum of the features and (soft) count of the samples of each class.

    Args:
        features (Tensor): Shape (N, d); cast to float32.
        labels (Tensor): Integers of shape (N,), or soft labels of shape (N, K): a sample then counts for class k with
            weight ``labels[:, k]``.
        num_classes (int): K.

    Returns:
        tuple[Tensor, Tensor]: sums (K, d) and counts (K,), float32, differentiable with respect to the features.

    Example:
        >>> class_statistics(torch.tensor([[1., 2.], [3., 4.]]), torch.tensor([1, 1]), 2)
        (tensor([[0., 0.],
                [4., 6.]]), tensor([0., 2.]))
    """
    features = features.float()
    if labels.ndim == 2:
        labels = labels.float()
        return labels.T @ features, labels.sum(0)
    sums = features.new_zeros(num_classes, features.shape[1]).index_add(0, labels, features)
    counts = features.new_zeros(num_classes).index_add(0, labels, features.new_ones(len(labels)))
    return sums, counts


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean feature of each class.

    Args:
        features (Tensor): Shape (N, d).
        labels (Tensor): Shape (N,) or soft (N, K).
        num_classes (int): K.

    Returns:
        tuple[Tensor, Tensor]: means (K, d), zero for an absent class, and counts (K,), both float32. A class is
        present where its count is positive.

    Example:
        >>> means, counts = class_means(torch.tensor([[1.], [3.]]), torch.tensor([0, 0]), 2)
        >>> means.tolist(), counts.tolist()
        ([[2.0], [0.0]], [2.0, 0.0])
    """
    sums, counts = class_statistics(features, labels, num_classes)
    return _divide(sums, counts), counts


def ema_class_statistics(ema_sums: Tensor, ema_counts: Tensor, sums: Tensor, counts: Tensor,
                         momentum: float) -> tuple[Tensor, Tensor]:
    """Exponential moving average of class sums and counts; their ratio is the moving class mean.

    Averaging sums and counts rather than means weighs a batch by the evidence it holds: a sample that belongs to a
    class with weight .02 (a mixture view) hardly moves that class's mean. A class that is absent from the batch is left
    alone (it does not decay), so a class seen once in a thousand batches keeps its mean.

    Args:
        ema_sums (Tensor): Shape (K, d).
        ema_counts (Tensor): Shape (K,); zero for a class never seen.
        sums (Tensor): Shape (K, d), of this batch.
        counts (Tensor): Shape (K,), of this batch.
        momentum (float): Weight of the past, in [0, 1).

    Returns:
        tuple[Tensor, Tensor]: the new sums and counts (new tensors).

    Example:
        >>> s, n = ema_class_statistics(torch.zeros(1, 1), torch.zeros(1), torch.ones(1, 1), torch.ones(1), 0.9)
        >>> (s / n).item()
        1.0
    """
    keep = torch.where(counts > 0, momentum, 1.0)
    ema_sums = ema_sums * keep[:, None] + sums * (1 - momentum)
    ema_counts = ema_counts * keep + counts * (1 - momentum)
    return ema_sums, ema_counts


def spherical_class_means(means: Tensor, sums: Tensor, momentum: float) -> Tensor:
    r"""Moving class means on the unit sphere: the class-mean-feature (CMF) classifier's update.

    .. math:: w_k \leftarrow \operatorname{normalise}(\beta w_k + (1 - \beta) \sum_{i: y_i = k} \hat h_i)

    Of `Generalized Neural Collapse for a Large Number of Classes <https://arxiv.org/abs/2310.05351>`_. It takes the sum
    of a batch, not its mean, so a class with more samples in the batch moves further. A class that is absent from the
    batch is left alone; one never seen stays zero.

    Args:
        means (Tensor): Unit rows (K, d), zero for a class never seen.
        sums (Tensor): Sums of unit features of this batch, (K, d).
        momentum (float): Weight of the past beta, in [0, 1).

    Returns:
        Tensor: the new means (a new tensor).

    Example:
        >>> spherical_class_means(torch.tensor([[1., 0.], [0., 1.]]), torch.tensor([[0., 1.], [0., 0.]]), 0.5)
        tensor([[0.7071, 0.7071],
                [0.0000, 1.0000]])
    """
    absent = (sums == 0).all(dim=1, keepdim=True)
    return torch.where(absent, means, unit_rows(momentum * means + (1 - momentum) * sums))


def straight_through(value: Tensor, gradient: Tensor) -> Tensor:
    """The value of one tensor with the gradient of another.

    A moving average with momentum .9 would divide the gradient of its batch part by ten; with ``value`` the moving mean
    and ``gradient`` the batch mean it arrives undamped.

    Example:
        >>> x = torch.ones(1, requires_grad=True)
        >>> y = straight_through(torch.full((1,), 5.), 2 * x); y.backward(); y.item(), x.grad.item()
        (5.0, 2.0)
    """
    return value.detach() + (gradient - gradient.detach())


def _divide(sums: Tensor, counts: Tensor) -> Tensor:
    """Sums over counts, zero (with zero gradient) where the count is zero."""
    return sums / torch.where(counts > 0, counts, 1.0)[:, None]
