"""Layer-peeled model with norm constraints, where cross-entropy merges the minority classes."""
from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import brentq, minimize
from scipy.special import logsumexp

from .blocks import Blocks, check_positive, cross_entropy, slopes, two_groups
from .solution import Solution

__all__ = ['layer_peeled', 'layer_peeled_sweep', 'minority_collapse_threshold']

MAX_GAP = 1e-6


class _TwoGroupProblem:
    """min log sum_g w_g CE_g over x = (s_A, s_B, v_A, v_B), nuclear norm at most rho; the core is u v^T.

    The logarithm keeps gradients of order one at norms where the cross-entropy itself is far below rounding.
    """

    def __init__(self, sizes: np.ndarray, log_ratio: float) -> None:
        self.sizes = sizes
        total = sizes.sum()
        self.u = np.array([math.sqrt(sizes[1] / total), -math.sqrt(sizes[0] / total)])
        log_weights = np.log(sizes) + np.array([log_ratio, 0.0])
        self.log_weights = log_weights - logsumexp(log_weights)

    def norm(self, x: np.ndarray) -> float:
        return float((self.sizes - 1) @ x[:2] + math.hypot(x[2], x[3]))

    def log_loss(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """log loss, its gradient in x, and the gradient's singular values (of s_A, s_B and the core)."""
        log_losses, log_wrong, log_single = cross_entropy(self.sizes, x[:2], np.outer(self.u, x[2:]))
        value = logsumexp(self.log_weights + log_losses)
        scale = self.log_weights - np.log(self.sizes) - value
        scalars, core = slopes(self.sizes, np.exp(log_wrong + scale), np.exp(log_single + scale))
        along = self.u @ core
        gradient = np.concatenate([(self.sizes - 1) * scalars, along])
        return float(value), gradient, np.array([*np.abs(scalars), math.hypot(*along)])

    def gap(self, x: np.ndarray, rho: float) -> float:
        """Duality gap over the loss: how far, relatively, the loss may be above its minimum, for certain."""
        _, gradient, singular = self.log_loss(x)
        return float(gradient @ x + rho * singular.max())

    def solve(self, x: np.ndarray, rho: float, free: Sequence[bool]) -> np.ndarray:
        """Minimise over the entries of x that are free, from x scaled to the norm rho."""
        free = np.asarray(free)
        scale = max(rho / self.sizes.sum(), 1e-300)  # the margin of the balanced optimum
        lift = lambda y: np.bincount(np.flatnonzero(free), y, 4) * scale

        def objective(y):
            value, gradient, _ = self.log_loss(lift(y))
            # log loss falls like -margin: over the scale it is of order one at any norm
            return value / max(scale, 1), gradient[free] * scale / max(scale, 1)

        def slack(y):
            return (rho - self.norm(lift(y))) / rho

        def slack_gradient(y):
            length = max(math.hypot(*lift(y)[2:]), 1e-300)
            return -np.concatenate([self.sizes - 1, lift(y)[2:] / length])[free] * scale / rho

        bounds = np.array([(0, None), (0, None), (None, None), (None, None)], dtype=object)[free]
        best = x * rho / self.norm(x)
        for _ in range(8):
            found = minimize(objective, best[free] / scale, jac=True, method='SLSQP', bounds=list(bounds),
                             constraints=dict(type='ineq', fun=slack, jac=slack_gradient),
                             options=dict(maxiter=60, ftol=1e-15))
            moved = lift(found.x)
            moved[:2] = np.maximum(moved[:2], 0)
            moved *= rho / self.norm(moved)
            before, after = self.log_loss(best)[0], self.log_loss(moved)[0]
            if after < before:
                best = moved
            if after > before - 1e-14 or self.gap(best, rho) < 1e-9 * max(1, -after):
                break
        return best

    def climb(self, rho: float, free: Sequence[bool], start: np.ndarray | None = None) -> np.ndarray:
        """Solve at growing norms, each from the one before; a start from a neighbouring problem saves that."""
        if start is not None:
            return self.solve(start, rho, free)
        total = self.sizes.sum()
        x = np.array([1.0, 1.0, *self.u]) * (np.append(self.sizes > 1, [True, True])) * np.asarray(free)
        norm = min(rho, 2.0 * total)
        while True:
            x = self.solve(x, norm, free)
            if norm >= rho:
                return x
            norm = min(rho, 2 * norm)


def _check(num_head: int, num_tail: int, energy_w: float, energy_h: float) -> tuple[np.ndarray, float]:
    check_positive(energy_w=energy_w, energy_h=energy_h)
    two_groups(num_head, num_tail, 1.0)  # refuses empty groups
    return np.array([num_head, num_tail]), (num_head + num_tail) * math.sqrt(energy_w) * math.sqrt(energy_h)


def _excess(problem: _TwoGroupProblem, x: np.ndarray) -> float:
    """log of the pull of the merged optimum over that of a minority class: collapsed where it is not negative.

    The pull is R (1 - p_own + p_other) of a majority sample; a single majority class has it in the core alone.
    """
    value, _, singular = problem.log_loss(x)
    return math.log(max(singular[0], singular[2], 1e-300)) + value - problem.log_weights[1] + math.log(problem.sizes[1])


def minority_collapse_threshold(num_head: int, num_tail: int, energy_w: float = 1.0, energy_h: float = 1.0) -> float:
    r"""R*: the imbalance ratio from which cross-entropy gives all minority classes one and the same vector.

    With p the probabilities that the optimum without any spread of the minority gives to a majority sample, the
    minority is collapsed if and only if

    .. math:: R (1 - p_{own} + p_{other}) \ge 1

    so R* is a root in log R. It depends on the numbers of classes and on ``energy_w * energy_h`` alone.

    Args:
        num_head (int): Number of majority classes K_A.
        num_tail (int): Number of minority classes K_B, at least 2.
        energy_w (float): E_W, bound of the mean square length of the classifier vectors. Defaults to 1.
        energy_h (float): E_H, the same for features. Defaults to 1.

    Returns:
        float: R*; infinite where it is beyond float64.

    Raises:
        ValueError: for a single minority class, and bounds that are not positive.

    Example:
        >>> round(minority_collapse_threshold(2, 2), 4)
        3.3805
    """
    sizes, rho = _check(num_head, num_tail, energy_w, energy_h)
    if num_tail < 2:
        raise ValueError(f'Expected `num_tail` to be at least 2, but got {num_tail}: a single minority class has none '
                         'to collapse with.')
    free, last = (num_head > 1, False, True, True), None

    def excess(log_ratio):
        nonlocal last
        problem = _TwoGroupProblem(sizes, log_ratio)
        last = problem.climb(rho, free, last)
        return _excess(problem, last)

    low, high = 0.0, 1.0
    while excess(high) < 0:
        low, high = high, 2 * high
    root = brentq(excess, low, high, xtol=1e-9) if excess(low) < 0 else low
    return math.exp(root) if root < 709 else math.inf


def layer_peeled(num_head: int, num_tail: int, ratio: float, energy_w: float = 1.0, energy_h: float = 1.0, *,
                 tail_samples: float = 1.0, threshold: float = math.nan, start: np.ndarray | None = None) -> Solution:
    r"""Global optimum of the layer-peeled model with two groups of classes.

    `Exploring deep neural networks via layer-peeled model <https://arxiv.org/abs/2101.12699>`_:

    .. math::
        \min \frac{1}{N} \sum_i CE(W h_i) \quad \text{s.t.} \quad \frac{1}{K} \sum_k |w_k|^2 \le E_W, \quad
        \frac{1}{K} \sum_k \frac{1}{n_k} \sum_{i \in k} |h_i|^2 \le E_H

    With d >= K it is convex in the logits Z: nuclear norm at most :math:`K \sqrt{E_W E_H}`; by symmetry four numbers
    remain. The result carries a duality gap, so that it is an optimum and not only the end of a descent.

    Args:
        num_head (int): Number of majority classes K_A.
        num_tail (int): Number of minority classes K_B.
        ratio (float): R = n_A / n_B, at least 1.
        energy_w (float): E_W. Defaults to 1.
        energy_h (float): E_H. Defaults to 1.
        tail_samples (float): n_B, which moves nothing but the table. Defaults to 1.
        threshold (float): R*, if known, for the table.
        start (np.ndarray, optional): (s_A, s_B, v_A, v_B) of a neighbouring problem.

    Returns:
        Solution: with s_A, s_B, v_A, v_B and the relative duality gap in ``extra``.

    Raises:
        ValueError: for settings that are out of range.
        RuntimeError: if the solver did not converge.

    Example:
        >>> layer_peeled(2, 2, ratio=10.0).collapsed
        True
    """
    begin = time.perf_counter()
    sizes, rho = _check(num_head, num_tail, energy_w, energy_h)
    check_positive(tail_samples=tail_samples)
    counts = two_groups(num_head, num_tail, ratio, tail_samples)
    problem = _TwoGroupProblem(sizes, math.log(ratio))
    several = sizes > 1
    if start is not None and not start[2:].any():
        start = None  # a core of zero has no direction to grow in
    merged = problem.climb(rho, (several[0], False, True, True),
                           None if start is None else start * [1, 0, 1, 1])
    x = merged
    if several[1] and _excess(problem, merged) < 0:
        x = problem.climb(rho, (several[0], True, True, True), start if start is not None and start[1] else None)
    bare = x * [1, 1, 0, 0]
    if problem.norm(bare) and problem.gap(bare * rho / problem.norm(bare), rho) <= problem.gap(x, rho):
        x = bare * rho / problem.norm(bare)  # between the groups there is nothing but rounding: |w_B| = 0
    gap, value = problem.gap(x, rho), problem.log_loss(x)[0]
    if not gap < MAX_GAP * max(1, -value):
        raise RuntimeError(f'The layer-peeled model with {num_head} + {num_tail} classes, ratio={ratio:g}, '
                           f'energy_w={energy_w:g}, energy_h={energy_h:g} was not solved: relative gap {gap:.1e}. '
                           'Use smaller energies.')
    blocks = Blocks(np.repeat([0, 1], sizes), x[:2], np.outer(problem.u, x[2:]))
    left, right = blocks.factors()
    stretch = (energy_w / energy_h) ** 0.25
    return Solution(
        'layer-peeled', counts, dict(R=ratio, E_W=energy_w, E_H=energy_h), math.exp(value),
        torch.from_numpy(left * stretch), torch.from_numpy(right / stretch), num_head=num_head, threshold=threshold,
        threshold_of='R', seconds=time.perf_counter() - begin,
        extra=dict(s_A=float(x[0]), s_B=float(x[1]), v_A=float(x[2]), v_B=float(x[3]), log_loss=value, gap=gap))


def layer_peeled_sweep(num_head: int, num_tail: int, ratios: Sequence[float], energy_w: float = 1.0,
                       energy_h: float = 1.0, *, tail_samples: float = 1.0) -> list[Solution]:
    """:func:`layer_peeled` over imbalance ratios, each from the solution before, with R* in every row.

    Args:
        num_head, num_tail, energy_w, energy_h, tail_samples: As there.
        ratios (Sequence[float]): Imbalance ratios.

    Returns:
        list[Solution]: One a ratio.
    """
    threshold = minority_collapse_threshold(num_head, num_tail, energy_w, energy_h) if num_tail > 1 else math.nan
    out: list[Solution] = []
    for ratio in ratios:
        start = None if not out else np.array([out[-1].extra[name] for name in ('s_A', 's_B', 'v_A', 'v_B')])
        out.append(layer_peeled(num_head, num_tail, ratio, energy_w, energy_h, tail_samples=tail_samples,
                                threshold=threshold, start=start))
    return out
