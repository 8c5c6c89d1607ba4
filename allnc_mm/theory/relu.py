"""Unconstrained features behind a ReLU."""
from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from .blocks import check_counts, check_positive
from .solution import Solution

__all__ = ['relu_ufm', 'relu_ufm_descent']


def _solution(counts, decay_w, decay_h, weight, means, begin, num_head):
    number, total = len(counts), counts.sum()
    logits = weight @ means.T
    loss = counts / total @ (logsumexp(logits, axis=0) - logits.diagonal())
    loss += decay_w / 2 * (weight ** 2).sum() + decay_h / 2 * counts @ (means ** 2).sum(1)
    margins = logits.diagonal() - np.where(np.eye(number, dtype=bool), -np.inf, logits).max(0)
    return Solution(
        'relu', counts, dict(lambda_W=decay_w, lambda_H=decay_h), float(loss), torch.from_numpy(weight),
        torch.from_numpy(means), num_head=num_head, center_means=True, seconds=time.perf_counter() - begin,
        threshold=float(total ** 2 * decay_w * decay_h * number / (number - 1)), threshold_of='n',
        extra=dict(vanished=int(((means ** 2).sum(1) < 1e-12 * (means ** 2).sum(1).max()).sum())),
        curves=dict(num_per_class=counts.tolist(), margin=margins.tolist(),
                    feature_norm_squared=(means ** 2).sum(1).tolist()))


def relu_ufm(num_per_class: Sequence[float], decay_w: float = 5e-3, decay_h: float = 5e-3, *,
             num_head: int | None = None) -> Solution:
    r"""Global optimum of the unconstrained-feature model with features that a ReLU keeps non-negative, in closed form.

    `Neural collapse for cross-entropy class-imbalanced learning with unconstrained ReLU features model
    <https://proceedings.mlr.press/v235/dang24a.html>`_, without bias and for d >= K. Class means are orthogonal, and
    classes of few samples vanish altogether:

    .. math::
        c_k = N \sqrt{\frac{\lambda_W \lambda_H (K - 1)}{K n_k}}, \qquad
        q_k = \log\left((K - 1) (1 / c_k - 1)\right) \text{ if } n_k > N^2 \lambda_W \lambda_H \frac{K}{K - 1}
        \text{ else } 0, \qquad |h_k|^2 = q_k \sqrt{\frac{\lambda_W (K - 1)}{K \lambda_H n_k}}

    with the logits :math:`q_k (e_k - 1/K)`. Orthogonal means are a simplex ETF only after centring, which the table
    does.

    Args:
        num_per_class (Sequence[float]): Class counts (K,).
        decay_w (float): :math:`\lambda_W`. Defaults to 5e-3.
        decay_h (float): :math:`\lambda_H`. Defaults to 5e-3.
        num_head (int, optional): The first so many classes are group A of the table.

    Returns:
        Solution: its threshold is the count at and below which a class vanishes; ``curves`` has margin and squared
        length of every class's feature.

    Raises:
        ValueError: for counts or decays that are not positive.

    Example:
        >>> [round(q, 4) for q in relu_ufm([400, 200, 50, 12]).curves['margin']]
        [2.8865, 2.4681, 1.4817, 0.0]
    """
    begin = time.perf_counter()
    counts = check_counts(num_per_class)
    check_positive(decay_w=decay_w, decay_h=decay_h)
    number, total = len(counts), counts.sum()
    limit = total * math.sqrt(decay_w) * math.sqrt(decay_h)
    # in logarithms of 1/c - 1, which neither over- nor underflows
    wrong = limit * np.sqrt((number - 1) / (number * counts))
    alive = counts > limit ** 2 * number / (number - 1)
    margin = np.zeros(number)
    margin[alive] = math.log(number - 1) + np.log1p(-wrong[alive]) - np.log(wrong[alive])
    length = np.sqrt(margin * np.sqrt(decay_w / decay_h * (number - 1) / (number * counts)))
    weight = np.zeros((number, number))
    weight[:, alive] = (np.eye(number) - 1 / number)[:, alive] * (margin[alive] / length[alive])
    return _solution(counts, decay_w, decay_h, weight, np.diag(length), begin, num_head)


def relu_ufm_descent(num_per_class: Sequence[float], decay_w: float = 5e-3, decay_h: float = 5e-3, *,
                     dim: int | None = None, restarts: int = 4, seed: int = 0,
                     num_head: int | None = None) -> Solution:
    """The same problem by descent (L-BFGS with bounds) from random starts: the check of the closed form.

    Args:
        num_per_class, decay_w, decay_h, num_head: As in :func:`relu_ufm`.
        dim (int, optional): Feature dimension d, at least K. Defaults to K.
        restarts (int): Random starts, of which the best end counts. Defaults to 4.
        seed (int): Seed of the starts. Defaults to 0.

    Returns:
        Solution: as there.

    Raises:
        ValueError: for d < K, or settings that are not positive.
    """
    begin = time.perf_counter()
    counts = check_counts(num_per_class)
    check_positive(decay_w=decay_w, decay_h=decay_h, restarts=restarts)
    number = len(counts)
    dim = number if dim is None else dim
    if dim < number:
        raise ValueError(f'Expected `dim` of at least K={number}, but got {dim}: the features of a ReLU make K '
                         'orthogonal directions; widen them.')
    share, eye = counts / counts.sum(), np.eye(number)

    def objective(x):
        weight, means = x.reshape(2, number, dim)
        logits = weight @ means.T
        value = share @ (logsumexp(logits, axis=0) - logits.diagonal())
        value += decay_w / 2 * (weight ** 2).sum() + decay_h / 2 * counts @ (means ** 2).sum(1)
        slope = (softmax(logits, axis=0) - eye) * share
        return value, np.concatenate([(slope @ means + decay_w * weight).ravel(),
                                      (slope.T @ weight + decay_h * counts[:, None] * means).ravel()])

    bounds = [(None, None)] * (number * dim) + [(0, None)] * (number * dim)
    best = None
    for index in range(restarts):
        start = np.abs(np.random.default_rng([seed, index]).normal(size=2 * number * dim))
        found = minimize(objective, start, jac=True, method='L-BFGS-B', bounds=bounds,
                         options=dict(maxiter=20_000, maxfun=40_000, ftol=1e-16, gtol=1e-10))
        best = found if best is None or found.fun < best.fun else best
    weight, means = best.x.reshape(2, number, dim)
    return _solution(counts, decay_w, decay_h, weight, means, begin, num_head)
