"""What re-balances a loss or a classifier: class-balanced weights, LDAM's margins, tau-normalisation."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .longtail import sampling_distribution
from .prototypes import one_hot

__all__ = ['class_balanced_weights', 'inverse_frequency_weights', 'ldam_margins', 'ldam_cross_entropy', 'tau_normalize']


def _counts(num_per_class: Sequence[int]) -> np.ndarray:
    counts = np.asarray(num_per_class, dtype=np.float64)
    if counts.ndim != 1 or not len(counts) or not np.isfinite(counts).all() or not (counts > 0).all():
        raise ValueError(f'Expected `num_per_class` to be class counts above 0, but got {list(num_per_class)[:10]}...; '
                         'remove classes without training images.')
    return counts


def class_balanced_weights(num_per_class: Sequence[int], beta: float = 0.9999) -> np.ndarray:
    r"""Class weights by the effective number of samples (`Cui et al., CVPR 2019 <https://arxiv.org/abs/1901.05555>`_).

    .. math::
        w_k \propto \frac{1 - \beta}{1 - \beta^{n_k}}, \qquad \sum_k w_k = K

    Args:
        num_per_class (Sequence[int]): K class counts, all above 0.
        beta (float): In [0, 1); 0 weighs all classes alike, towards 1 the weights tend to 1/n_k. Defaults to 0.9999.

    Returns:
        np.ndarray: (K,) float64.

    Raises:
        ValueError: for a beta out of range or a class without images.

    Example:
        >>> class_balanced_weights([100, 1], 0.5).round(4).tolist()
        [0.6667, 1.3333]
    """
    if not 0 <= beta < 1:
        raise ValueError(f'Expected `beta` in [0, 1), but got {beta}; 0.9999 is usual, 0 is no re-weighting.')
    counts = _counts(num_per_class)
    # 1 - beta^n by expm1: the difference of two numbers near 1 otherwise
    weight = 1 / -np.expm1(counts * np.log(beta)) if beta else np.ones_like(counts)
    return weight / weight.sum() * len(weight)


def inverse_frequency_weights(num_per_class: Sequence[int], power: float = 1.0) -> np.ndarray:
    """Class weights in proportion to n_k^-power that sum to K.

    Args:
        num_per_class (Sequence[int]): K class counts, all above 0.
        power (float): 1 is inverse frequency, 0 weighs all classes alike. Defaults to 1.

    Returns:
        np.ndarray: (K,) float64.

    Raises:
        ValueError: for a power that is not finite or a class without images.

    Example:
        >>> inverse_frequency_weights([3, 1]).tolist()
        [0.5, 1.5]
    """
    return sampling_distribution(_counts(num_per_class).tolist(), -power) * len(num_per_class)


def ldam_margins(num_per_class: Sequence[int], max_margin: float = 0.5) -> np.ndarray:
    """Label-distribution-aware margins (`Cao et al., NeurIPS 2019 <https://arxiv.org/abs/1906.07413>`_).

    In proportion to n_k^(-1/4); the rarest class has ``max_margin``.

    Args:
        num_per_class (Sequence[int]): K class counts, all above 0.
        max_margin (float): Positive. Defaults to 0.5.

    Returns:
        np.ndarray: (K,) float64.

    Raises:
        ValueError: for a margin that is not positive or a class without images.

    Example:
        >>> ldam_margins([16, 1]).tolist()
        [0.25, 0.5]
    """
    if not max_margin > 0:
        raise ValueError(f'Expected `max_margin` to be positive, but got {max_margin}; 0.5 is that of the paper.')
    counts = _counts(num_per_class)
    return max_margin * (counts.min() / counts)**0.25


def ldam_cross_entropy(logits: Tensor, labels: Tensor, margins: Tensor) -> Tensor:
    r"""Cross-entropy with the label's logit lowered by its margin, per sample.

    .. math::
        L = -\log \frac{e^{f_y - m_y}}{e^{f_y - m_y} + \sum_{k \ne y} e^{f_k}}

    The margin is on the scale of the logits: for scaled cosines s cos it is s times that of :func:`ldam_margins`. A
    soft label gives the classes' losses, weighted by the label.

    Args:
        logits (Tensor): Shape (N, K); float32 arithmetic.
        labels (Tensor): Shape (N,) integers or (N, K) soft.
        margins (Tensor): Shape (K,).

    Returns:
        Tensor: float32 of shape (N,).

    Example:
        >>> loss = ldam_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([1., 0.]))
        >>> torch.allclose(loss, (1 + torch.tensor(1.).exp()).log())
        True
    """
    logits = logits.float()
    # log-sum-exp of the other logits, for every class at once. Subtracting from the total would cancel for the largest
    # logit alone, so that one is left out from the start.
    largest = logits.argmax(1, keepdim=True)
    rest = logits.scatter(1, largest, -torch.inf).logsumexp(1, keepdim=True)
    total = torch.logaddexp(rest, logits.gather(1, largest))
    share = (logits - total).scatter(1, largest, -1.0).exp()  # at most 1/2
    others = (total + torch.log1p(-share)).scatter(1, largest, rest)
    return (one_hot(labels, logits.shape[1]) * F.softplus(others - (logits - margins))).sum(1)


def tau_normalize(weight: Tensor, tau: float) -> Tensor:
    r"""Classifier vectors divided by a power of their length (`Kang et al., ICLR 2020
    <https://arxiv.org/abs/1910.09217>`_): :math:`w_k / |w_k|^\tau`.

    Args:
        weight (Tensor): Shape (K, d), no vector zero unless tau is.
        tau (float): 0 leaves them, 1 makes all lengths one.

    Returns:
        Tensor: Shape and type of ``weight``.

    Example:
        >>> tau_normalize(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), 0.5)
        tensor([[2., 0.],
                [0., 1.]])
    """
    return weight / torch.linalg.vector_norm(weight, dim=1, keepdim=True)**tau
