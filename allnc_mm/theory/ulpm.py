"""Unconstrained layer-peeled model: gradient flow of cross-entropy without weight decay or norm constraint."""
from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import expi

from ..functional.collapse import ClassStatistics, equiangularity, nc1, self_duality
from .blocks import check_counts, check_positive, cross_entropy_columns
from .solution import Solution
from .weight_decay import seli

__all__ = ['gradient_flow', 'growth_margin']

CLOCKS = ('loss', 'time')
STARTS = ('random', 'ray')
RECORDS = 100
TOLERANCE = 1e-5  # of a step, relative to the length of (W, H)


def _log_expi(x: float) -> float:
    """log of the exponential integral Ei, also where Ei overflows."""
    if x < 600:
        return math.log(expi(x))
    terms = np.cumprod(np.arange(1, 20) / x)  # asymptotic series, exact to rounding here
    return x - math.log(x) + math.log1p(terms.sum())


def growth_margin(log_time: float, num_classes: int, samples: float, margin: float = 0.5) -> float:
    r"""Common margin q of the balanced model after the time exp(``log_time``) on the symmetric ray.

    There the flow of the mean cross-entropy is one equation,

    .. math:: \frac{dq}{dt} = \frac{2}{\sqrt n} \, \frac{q e^{-q}}{1 + (K - 1) e^{-q}}

    whose solution is :math:`t = \frac{\sqrt n}{2} [Ei(q) - Ei(q_0) + (K - 1) \log(q / q_0)]`, hence
    :math:`q = \log t + \log\log t + \log(2 / \sqrt n) + o(1)`: lengths grow like the root of log t, for ever.

    Args:
        log_time (float): Logarithm of the time, up to 1e6.
        num_classes (int): K.
        samples (float): n, samples of a class.
        margin (float): q at the start. Defaults to 0.5.

    Returns:
        float: q.

    Raises:
        ValueError: for settings that are not positive.

    Example:
        >>> round(growth_margin(math.log(100), 4, 10), 4)
        5.4557
    """
    check_positive(num_classes=num_classes - 1, samples=samples, margin=margin)
    if not log_time <= 1e6:
        raise ValueError(f'Expected `log_time` to be at most 1e6, but got {log_time}.')
    target = log_time + math.log(2 / math.sqrt(samples))

    def excess(q):
        # log [Ei(q) - Ei(q0) + (K-1) log(q/q0)] with the small terms relative to Ei(q)
        if q < 600:
            value = expi(q) - expi(margin) + (num_classes - 1) * math.log(q / margin)
            return math.log(max(value, 1e-300)) - target
        return _log_expi(q) - target

    high = max(2 * margin, target + 2 * math.log(max(target, 1.0)) + 10)
    return brentq(excess, margin, high, xtol=1e-13, rtol=1e-14) if excess(margin) < 0 else margin


def gradient_flow(num_per_class: Sequence[int], dim: int, *, steps: int = 3000, step_size: float = 0.02,
                  clock: str = 'loss', scale: float = 0.5, start: str = 'random', margin: float = 0.5, seed: int = 0,
                  num_head: int | None = None) -> Solution:
    r"""Gradient flow of the unconstrained layer-peeled model, by the midpoint rule in float64.

    `An unconstrained layer-peeled perspective on neural collapse <https://arxiv.org/abs/2110.02796>`_: with
    :math:`\dot W = -\nabla_W L, \dot H = -\nabla_H L` of the mean cross-entropy of W H, no weight decay and no
    constraint, lengths diverge, and the direction tends to a solution of

    .. math::
        \min \frac{|W|_F^2 + |H|_F^2}{2} \quad \text{s.t.} \quad \langle w_{y_i} - w_j, h_i \rangle \ge 1

    the simplex ETF for balanced classes with the minimum :math:`(K - 1) \sqrt n`, SELI otherwise. So the half norm over
    the smallest margin falls to that value, at the rate 1 / log t. :math:`W^T W - H^T H` is conserved (W (K, d),
    H (N, d)).

    The slopes are taken relative to the loss and times in logarithms, so that the flow can be followed to log t in the
    thousands. A step costs two products of (K, d) and (d, N).

    Args:
        num_per_class (Sequence[int]): Class counts (K,).
        dim (int): Feature dimension d, at least K - 1.
        steps (int): Steps. Defaults to 3000.
        step_size (float): Size of a step in the clock's time. Defaults to 0.02.
        clock (str): 'loss': time in units of 1 / L, which keeps up with the slowing flow; 'time': plain time, which
            stalls at a margin of log(time). Defaults to 'loss'.
        scale (float): Standard deviation of the random start. Defaults to 0.5.
        start (str): 'random', or 'ray', the balanced optimum itself at the given ``margin``. Defaults to 'random'.
        margin (float): See ``start``. Defaults to 0.5.
        seed (int): Seed of the start. Defaults to 0.
        num_head (int, optional): The first so many classes are group A of the table.

    Returns:
        Solution: its loss is the cross-entropy (0 where it is below float64; ``extra`` has its logarithm). ``extra``
        also has the smallest margin, half norm over margin and its optimum, the drift of the conserved matrix, log10 t,
        and measures of collapse; ``curves`` has them over time.

    Raises:
        ValueError: for d < K - 1, counts that are no positive integers, and unknown or negative settings.

    Example:
        >>> flow = gradient_flow([10] * 4, dim=8)
        >>> flow.extra['norm/margin'] / flow.extra['optimum'] < 1.01
        True
    """
    begin = time.perf_counter()
    counts = check_counts(num_per_class)
    number = len(counts)
    if (counts != counts.round()).any():
        raise ValueError(f'Expected `num_per_class` to hold integers, but got {counts[counts != counts.round()][0]:g}: '
                         'the flow moves every sample.')
    if dim < number - 1:
        raise ValueError(f'Expected `dim` of at least K - 1 = {number - 1}, but got {dim}: the margin problem has rank '
                         'K - 1; widen the features.')
    if clock not in CLOCKS or start not in STARTS:
        raise ValueError(f'Expected `clock` to be one of {CLOCKS} and `start` one of {STARTS}, but got {clock!r} and '
                         f'{start!r}.')
    check_positive(steps=steps, step_size=step_size, scale=scale, margin=margin)
    labels = np.repeat(np.arange(number), counts.astype(int))
    columns = np.arange(len(labels))
    optimum = seli(counts)
    if start == 'random':
        generator = np.random.default_rng(seed)
        weight = scale * generator.normal(size=(number, dim))
        features = scale * generator.normal(size=(len(labels), dim))
    else:
        if len(set(counts)) > 1 or dim < number:
            raise ValueError(f"start='ray' is that of balanced classes and needs dim >= K = {number}, but got "
                             f"dim={dim} and {len(set(counts))} class sizes; use start='random'.")
        pad = np.zeros((number, dim - number))
        weight = math.sqrt(margin) * np.hstack([optimum.weight.numpy(), pad])
        features = math.sqrt(margin) * np.hstack([optimum.means.numpy(), pad])[labels]

    def rate(weight, features):
        value, slope = cross_entropy_columns(weight @ features.T, labels)
        if clock == 'time':
            slope = slope * math.exp(value)
        return value, -slope @ features, -slope.T @ weight

    def invariant():
        return weight.T @ weight - features.T @ features

    conserved, log_time = invariant(), -math.inf
    curves: dict[str, list[float]] = {}

    def record():
        logits = weight @ features.T
        right = np.arange(number)[:, None] == labels
        smallest = float((logits[labels, columns] - np.where(right, -np.inf, logits).max(0)).min())
        stats = ClassStatistics(number, dim)
        stats.update(torch.from_numpy(features), torch.from_numpy(labels))
        half = ((weight ** 2).sum() + (features ** 2).sum()) / 2
        now = {
            'log10_t': log_time / math.log(10), 'log_loss': value, 'margin': smallest,
            'norm/margin': half / smallest if smallest > 0 else math.nan, 'NC1': nc1(stats),
            'std_cos_W': equiangularity(torch.from_numpy(weight)),
            'std_cos_H': equiangularity(stats.means), 'NC3': self_duality(torch.from_numpy(weight), stats.means),
            'W2/H2': float((weight ** 2).sum() / (features ** 2).sum()),
            'drift': float(np.abs(invariant() - conserved).max())}
        for name, number_ in now.items():
            curves.setdefault(name, []).append(float(number_))
        return stats

    every = max(1, steps // RECORDS)
    size = step_size
    for step in range(steps):
        value, d_weight, d_features = rate(weight, features)
        if step % every == 0:
            record()
        length = math.sqrt((weight ** 2).sum() + (features ** 2).sum())
        while True:
            middle, w_rate, h_rate = rate(weight + size / 2 * d_weight, features + size / 2 * d_features)
            if clock == 'time':
                break
            # the midpoint rule against Euler's: log L bends like squared lengths, so no step is stable for ever
            error = size * math.sqrt(((w_rate - d_weight) ** 2).sum() + ((h_rate - d_features) ** 2).sum()) / length
            if error <= TOLERANCE:
                break
            size *= max(0.2, 0.8 * math.sqrt(TOLERANCE / error))
        weight, features = weight + size * w_rate, features + size * h_rate
        log_time = float(np.logaddexp(log_time, math.log(size) - (middle if clock == 'loss' else 0)))
        if clock == 'loss':
            size *= min(1.2, 0.9 * math.sqrt(TOLERANCE / max(error, 1e-300)))
    value = rate(weight, features)[0]
    stats = record()
    last = {name: values[-1] for name, values in curves.items()}
    return Solution(
        'ulpm', counts, dict(d=dim, steps=steps, dt=step_size, seed=seed), math.exp(value), torch.from_numpy(weight),
        stats.means, num_head=num_head, nc1=last.pop('NC1'), seconds=time.perf_counter() - begin,
        extra=dict(last, optimum=optimum.loss), curves=curves)
