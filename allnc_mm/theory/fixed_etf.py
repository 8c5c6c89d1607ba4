"""A classifier fixed to the simplex ETF: the case in which nothing can collapse."""
from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..functional import dot_regression_loss, simplex_etf, unit_rows
from .blocks import check_counts, check_positive
from .solution import Solution

__all__ = ['fixed_etf']

LOSSES = ('ce', 'dr')


def fixed_etf(num_per_class: Sequence[float], dim: int | None = None, energy_w: float = 1.0, energy_h: float = 1.0, *,
              loss: str = 'ce', form: str = 'paper', seed: int = 0, num_head: int | None = None) -> Solution:
    r"""Features under a fixed ETF classifier, by descent from a random start.

    `Inducing neural collapse in imbalanced learning <https://arxiv.org/abs/2203.09081>`_: with the rows of W those of
    an ETF of length :math:`\sqrt{E_W}`, the minimum of cross-entropy, or of dot regression, over
    :math:`|h| \le \sqrt{E_H}` is :math:`h = \sqrt{E_H} w_k / |w_k|` for every class, whatever its count: under a
    fixed W the objective is a sum of one term a sample, which the counts weigh without moving any minimum. So one
    feature a class is moved, by its own term (L-BFGS; cross-entropy in logarithms and by way of shorter lengths, so
    that nothing underflows).

    Args:
        num_per_class (Sequence[float]): Class counts (K,).
        dim (int, optional): d, at least K - 1. Defaults to K - 1.
        energy_w (float): E_W. Defaults to 1.
        energy_h (float): E_H. Defaults to 1.
        loss (str): 'ce' or 'dr'. Defaults to 'ce'.
        form (str): Of the dot regression, 'paper' or 'released'. Defaults to 'paper'.
        seed (int): Seed of start and frame. Defaults to 0.
        num_head (int, optional): The first so many classes are group A of the table.

    Returns:
        Solution: ``extra`` has the smallest cosine between a feature and its class's vector.

    Raises:
        ValueError: for d < K - 1, unknown losses, and settings that are not positive.

    Example:
        >>> fixed_etf([1000, 1000, 1], energy_w=2.25, energy_h=4).extra['min_cos'] > 1 - 1e-6
        True
    """
    begin = time.perf_counter()
    counts = check_counts(num_per_class)
    check_positive(energy_w=energy_w, energy_h=energy_h)
    if loss not in LOSSES:
        raise ValueError(f'Expected `loss` to be one of {LOSSES}, but got {loss!r}.')
    number = len(counts)
    dim = number - 1 if dim is None else dim
    weight = math.sqrt(energy_w) * simplex_etf(number, dim, seed=seed)
    share, labels = torch.from_numpy(counts / counts.sum()), torch.arange(number)

    def values(free: Tensor, length: float) -> tuple[Tensor, Tensor]:
        """Features of the given length, and the loss of each class."""
        features = length * unit_rows(free)
        if loss == 'dr':
            return features, dot_regression_loss(features, labels, weight, form=form, length=length, reduction='none')
        return features, cross_entropy(features @ weight.T, labels, reduction='none')

    def objective(x, length):
        free = torch.from_numpy(x).view(number, dim).requires_grad_()
        now = values(free, length)[1]
        # of order one, and so its slopes, at any length
        scale = length * math.sqrt(energy_w)
        now = now.sum() / scale if loss == 'dr' else now.clamp_min(1e-300).log().sum() / scale
        now.backward()
        return now.item(), free.grad.numpy().ravel()

    x = np.random.default_rng(seed).normal(size=number * dim)
    target, length = math.sqrt(energy_h), math.sqrt(energy_h)
    if loss == 'ce':
        length = min(target, 4 / math.sqrt(energy_w))
    while True:
        x = minimize(objective, x, (length,), jac=True, method='L-BFGS-B',
                     options=dict(maxiter=5000, maxfun=10_000, ftol=0, gtol=1e-12, maxcor=20)).x
        if length >= target:
            break
        length = min(target, 4 * length)
    with torch.no_grad():
        features, now = values(torch.from_numpy(x).view(number, dim), length)
        now = share @ now
    cosines = (unit_rows(features) * unit_rows(weight)).sum(1)
    return Solution('fixed-etf', counts, dict(E_W=energy_w, E_H=energy_h, d=dim), now.item(), weight, features,
                    num_head=num_head, seconds=time.perf_counter() - begin, extra=dict(min_cos=cosines.min().item()))
