"""Features and classifier on the unit sphere, with a temperature: more classes than an ETF has room for."""
from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize

from .. import functional
from ..functional import aligned_cosines, pairwise_cosines
from .blocks import check_counts, check_positive, cross_entropy_columns
from .solution import Solution

__all__ = ['spherical']


def _unit(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return x / lengths, lengths


def spherical(num_classes: int, dim: int, temperatures: Sequence[float] = (1.0, 0.3, 0.1, 0.03, 0.01), *,
              restarts: int = 8, seed: int = 0) -> list[Solution]:
    r"""Unit features and unit classifier vectors under cross-entropy with a temperature, balanced classes.

    `Generalized neural collapse for a large number of classes <https://arxiv.org/abs/2310.05351>`_:

    .. math:: \min_{|w_k| = |h_k| = 1} \frac{1}{K} \sum_k CE(W h_k / \tau)

    For K <= d + 1 that is the simplex ETF at any temperature. Beyond it, the minimisers tend to a softmax code as
    :math:`\tau \to 0`: the classifier maximises the least distance rho of a vector from the convex hull of the others,
    and :math:`-\tau \log CE \to \rho^*`.

    The temperatures are visited from the highest to the lowest, each from the solution before (L-BFGS on
    :math:`\tau \log CE`, which does not underflow), from several random starts, of which the best counts at each
    temperature. For K > 2 d and small temperatures the problem has local minima: more restarts.

    Args:
        num_classes (int): K, at least 2.
        dim (int): d, at least 2.
        temperatures (Sequence[float]): Temperatures. Defaults to (1, .3, .1, .03, .01).
        restarts (int): Random starts. Defaults to 8.
        seed (int): Seed of the starts. Defaults to 0.

    Returns:
        list[Solution]: One a temperature, in falling order; ``extra`` has the certified rho of W, one minus the largest
        cosine, minus tau times the logarithm of the loss, and the deviation from self-duality (GNC3).

    Raises:
        ValueError: for K < 2, d < 2, and temperatures that are not positive.

    Example:
        >>> round(spherical(4, 2, [0.1], restarts=2)[0].extra['rho'], 4)  # a square
        1.0
    """
    counts = check_counts(np.ones(max(num_classes, 0)))
    check_positive(restarts=restarts)
    for temperature in temperatures:
        check_positive(temperature=temperature)
    if not len(temperatures):
        raise ValueError('Expected at least one temperature, but got none.')
    if dim < 2:
        raise ValueError(f'Expected `dim` of at least 2, but got {dim}: the unit vectors of a line cannot move.')
    path = sorted(temperatures, reverse=True)
    labels = np.arange(num_classes)
    best: list = [(math.inf, None, 0.0)] * len(path)

    def objective(x, temperature):
        weight, features = x.reshape(2, num_classes, dim)
        (weight, w_length), (features, h_length) = _unit(weight), _unit(features)
        value, slope = cross_entropy_columns(weight @ features.T / temperature, labels)
        # the slope is relative to the loss, so it is that of tau log CE but for the temperature's cancelling factors
        gradients = []
        for unit, length, gradient in ((weight, w_length, slope @ features), (features, h_length, slope.T @ weight)):
            gradients.append(((gradient - (gradient * unit).sum(1, keepdims=True) * unit) / length).ravel())
        return temperature * value, np.concatenate(gradients)

    for restart in range(restarts):
        x = np.random.default_rng([seed, restart]).normal(size=2 * num_classes * dim)
        for index, temperature in enumerate(path):
            begin = time.perf_counter()
            found = minimize(objective, x, (temperature,), jac=True, method='L-BFGS-B',
                             options=dict(maxiter=5000, maxfun=10_000, ftol=1e-15, gtol=1e-9, maxcor=20))
            x, before = found.x, best[index]
            seconds = before[2] + time.perf_counter() - begin
            best[index] = (found.fun, x, seconds) if found.fun < before[0] else (*before[:2], seconds)

    out = []
    for temperature, (value, x, seconds) in zip(path, best):
        weight, features = (torch.from_numpy(_unit(part)[0]) for part in x.reshape(2, num_classes, dim))
        off = ~torch.eye(num_classes, dtype=torch.bool)
        extra = {
            'rho': float(functional.one_vs_rest_distance(weight)[0]),
            '1-max_cos': 1 - float(pairwise_cosines(weight, False)[off].max()),
            '-tau*log_loss': -value,
            'GNC3': 1 - float(aligned_cosines(weight, features, center_means=False).mean())
        }
        out.append(Solution('spherical', counts, dict(tau=temperature, d=dim), math.exp(value / temperature), weight,
                            features, seconds=seconds, extra=extra))
    return out
