"""Weights of the classes in a loss, computed from how often they occur."""
import numpy as np
from numpy.typing import ArrayLike

from .margins import inverse_frequency_weights

__all__ = ['class_weights', 'CLASS_WEIGHT_SCHEMES']

CLASS_WEIGHT_SCHEMES = ('inverse', 'median', 'log')


def class_weights(num_per_class: ArrayLike, scheme: str = 'inverse', *, power: float = 0.5,
                  frequency: ArrayLike | None = None) -> np.ndarray:
    r"""Loss weights of the classes from their counts, such that the average sample has weight one.

    With :math:`p_k = n_k / \sum_j n_j`,

    .. math::
        w_k \propto p_k^{-power} \;(inverse), \qquad \frac{\operatorname{median}_j f_j}{f_k} \;(median), \qquad
        \frac{1}{\log(1.02 + p_k)} \;(log), \qquad \sum_k p_k w_k = 1

    'median' is the median frequency balancing of SegNet (`arXiv:1511.00561 <https://arxiv.org/abs/1511.00561>`_), with
    :math:`f_k` the share of the class within the images that contain it; 'log' is that of ENet (`arXiv:1606.02147
    <https://arxiv.org/abs/1606.02147>`_). The scale keeps the size of the loss, so the learning rate need not change.

    Args:
        num_per_class (ArrayLike): n_k > 0, shape (K,): samples, pixels, or any multiple of their shares.
        scheme (str): 'inverse', 'median' or 'log'. Defaults to 'inverse'.
        power (float): Strength of 'inverse': 0 leaves all at one, 1 makes the classes' totals equal. Defaults to 0.5.
        frequency (ArrayLike, optional): f_k of 'median'. Defaults to None, p_k.

    Returns:
        np.ndarray: (K,) float64.

    Raises:
        ValueError: for an unknown scheme, a count that is not positive, or a power that is not finite.

    Example:
        >>> class_weights([1, 4], power=1.0).round(3).tolist()
        [2.5, 0.625]
    """
    counts = np.asarray(num_per_class, dtype=np.float64)
    if scheme not in CLASS_WEIGHT_SCHEMES:
        raise ValueError(f'Expected `scheme` to be one of {CLASS_WEIGHT_SCHEMES}, but got {scheme!r}.')
    if counts.ndim != 1 or not np.isfinite(counts).all() or not (counts > 0).all():
        raise ValueError('Class weights need a positive count of each class, but it is not for classes '
                         f'{np.flatnonzero(~(counts > 0)).tolist()[:10]}; remove classes without training samples.')
    share = counts / counts.sum()
    if scheme == 'inverse':
        weight = inverse_frequency_weights(counts.tolist(), power)
    elif scheme == 'median':
        frequency = share if frequency is None else np.asarray(frequency, dtype=np.float64)
        weight = np.median(frequency) / frequency
    else:
        weight = 1 / np.log(1.02 + share)
    return weight / (share * weight).sum()
