r"""Matrices that do not tell classes of equal size apart: what every convex model of this package solves for.

The classes fall into G groups of :math:`K_g` classes with :math:`n_g` samples each. By symmetry a (K, K) logit matrix
(column k: the logits of class k) that is optimal can be taken to be

.. math:: Z = \sum_g s_g P_g + U B U^T

with :math:`P_g` the projection onto the vectors on group g that sum to zero, U (K, G) the indicators
:math:`1_g / \sqrt{K_g}`, and B a (G, G) core whose columns are orthogonal to :math:`(\sqrt{K_g})_g`, because logits
sum to zero. So thousands of classes in two groups are a handful of numbers:

.. math:: \|Z\|_* = \sum_g (K_g - 1) |s_g| + \|B\|_*
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp


def check_counts(num_per_class: Sequence[float]) -> np.ndarray:
    """Class counts as a float64 array (K,), largest first not required.

    Raises:
        ValueError: with fewer than two classes, or a count that is not positive and finite.
    """
    counts = np.asarray(num_per_class, dtype=np.float64)
    if counts.ndim != 1 or len(counts) < 2:
        raise ValueError(f'Expected `num_per_class` to hold the counts of at least two classes, but got shape '
                         f'{counts.shape}.')
    if not (np.isfinite(counts).all() and (counts > 0).all()):
        raise ValueError(f'Expected every count in `num_per_class` to be positive and finite, but got {counts.min():g} '
                         f'to {counts.max():g}; leave out classes without samples.')
    return counts


def two_groups(num_head: int, num_tail: int, ratio: float, tail_samples: float = 1.0) -> np.ndarray:
    """Counts of K_A head classes with ``ratio * tail_samples`` samples and K_B tail classes.

    Raises:
        ValueError: if a group has no class, or the ratio is below 1.

    Example:
        >>> two_groups(2, 1, ratio=10).tolist()
        [10.0, 10.0, 1.0]
    """
    for name, value in (('num_head', num_head), ('num_tail', num_tail)):
        if value < 1 or value != int(value):
            raise ValueError(f'Expected `{name}` to be a positive number of classes, but got {value}; the setting has '
                             'two groups of classes.')
    if not (1 <= ratio < np.inf):
        raise ValueError(f'Expected `ratio`, samples of a head class over samples of a tail class, to be finite and '
                         f'at least 1, but got {ratio}; swap the groups.')
    return check_counts(np.repeat([ratio * tail_samples, tail_samples], [int(num_head), int(num_tail)]))


def check_positive(**settings: float) -> None:
    """Refuse settings that are not positive and finite, by a ValueError that names the first of them."""
    for name, value in settings.items():
        if not 0 < value < np.inf:
            raise ValueError(f'Expected `{name}` to be positive and finite, but got {value}.')


@dataclass
class Blocks:
    """One matrix of the form above.

    Attributes:
        group (np.ndarray): Group of each class, (K,) int.
        scalars (np.ndarray): s_g, (G,); without meaning (0) for groups of one class.
        core (np.ndarray): B, (G, G).
    """
    group: np.ndarray
    scalars: np.ndarray
    core: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """np.ndarray: K_g, (G,)."""
        return np.bincount(self.group)

    def indicators(self) -> np.ndarray:
        """U, (K, G)."""
        return np.eye(len(self.scalars))[self.group] / np.sqrt(self.sizes)

    def nuclear_norm(self) -> float:
        """The sum of the singular values."""
        return float((self.sizes - 1) @ np.abs(self.scalars) + np.linalg.svd(self.core, compute_uv=False).sum())

    def matrix(self) -> np.ndarray:
        """Z, (K, K)."""
        indicators = self.indicators()
        return self._spread(self.scalars) + indicators @ self.core @ indicators.T

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """The balanced factors L, R, each (K, K), with L R^T = Z and L^T L = R^T R: square roots of the SVD."""
        u, singular, v = np.linalg.svd(self.core)
        root, indicators = np.sqrt(singular), self.indicators()
        spread = self._spread(np.sqrt(self.scalars))
        return spread + indicators @ (u * root) @ indicators.T, spread + indicators @ (v.T * root) @ indicators.T

    def _spread(self, scalars: np.ndarray) -> np.ndarray:
        indicators = self.indicators()
        return np.diag(scalars[self.group]) - (indicators * scalars) @ indicators.T


def grouped(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group of each class (K,), class sizes K_g and samples n_g (G,): classes of equal count are one group."""
    samples, group = np.unique(-counts, return_inverse=True)  # the largest first
    return group, np.bincount(group), -samples


def cross_entropy(sizes: np.ndarray, scalars: np.ndarray, core: np.ndarray,
                  bias: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cross-entropy of a column of each group, in logarithms: nothing underflows at any norm.

    Args:
        sizes, scalars, core (np.ndarray): K_g, s_g, B of :class:`Blocks`.
        bias (np.ndarray, optional): Added to the logits of the classes of each group, (G,).

    Returns:
        tuple: log of the cross-entropy of a class of group g, (G,); log of the probability that it gives to the wrong
        classes of group h, (G, G) indexed [h, g]; log of the probability of each single wrong class of its own
        group, (G,).
    """
    root = np.sqrt(sizes)
    logits = core / np.outer(root, root) + (0 if bias is None else bias[:, None])
    own = scalars * (1 - 1 / sizes) + logits.diagonal()
    terms = logits - own
    np.fill_diagonal(terms, -scalars)  # another class of the own group, minus the own logit
    single = np.where(sizes > 1, -scalars, -np.inf)
    with np.errstate(divide='ignore'):
        terms = terms + np.log(sizes[:, None] - np.eye(len(sizes)))  # how many there are; none: -inf
    odds = logsumexp(terms, axis=0)
    total = np.logaddexp(0, odds)
    return _log_of_loss(odds, total), terms - total, single - total


def _log_of_loss(odds: np.ndarray, total: np.ndarray) -> np.ndarray:
    """log log(1 + e^odds), given ``total`` = log(1 + e^odds)."""
    return np.where(odds < -35, odds, np.log(np.maximum(total, 1e-300)))


def slopes(sizes: np.ndarray, wrong: np.ndarray, single: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient of the cross-entropies with respect to Z, in the form of :class:`Blocks`.

    Args:
        sizes (np.ndarray): K_g.
        wrong, single (np.ndarray): The probabilities of :func:`cross_entropy`, not in logarithms, possibly scaled by a
            factor for each column.

    Returns:
        tuple: the gradient's scalars (G,), -(1 - p_own + p_same), and its core (G, G).
    """
    other = wrong - np.diag(wrong.diagonal())
    core = other / np.sqrt(np.outer(sizes, sizes)) * sizes
    np.fill_diagonal(core, -other.sum(0))
    return np.where(sizes > 1, -(wrong.sum(0) + single), 0.0), core


def cross_entropy_columns(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """log of the mean cross-entropy L of any logits, and the gradient of that logarithm: of order one at any norm.

    Args:
        logits (np.ndarray): Shape (K, N), one column a sample.
        labels (np.ndarray): Shape (N,).

    Returns:
        tuple: log L, and its gradient in the logits, (K, N).
    """
    columns = np.arange(len(labels))
    gaps = logits - logits[labels, columns]
    gaps[labels, columns] = -np.inf
    peak = gaps.max(0)
    odds = peak + np.log(np.exp(gaps - peak).sum(0))  # log sum_{j != y} e^{z_j - z_y}
    total = np.logaddexp(0, odds)
    log_losses = _log_of_loss(odds, total)
    value = float(logsumexp(log_losses)) - np.log(len(labels))
    slopes = np.exp(gaps - total - value) / len(labels)
    slopes[labels, columns] = -slopes.sum(0)  # never 1 - p_y: the pull is the sum of the pushes
    return value, slopes
