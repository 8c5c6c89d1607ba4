"""Unconstrained features with weight decay, and their limit of no decay: SELI."""
from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch

from .blocks import Blocks, check_counts, check_positive, cross_entropy, grouped, slopes, two_groups
from .solution import Solution

__all__ = ['collapse_count', 'collapse_ratio', 'seli', 'weight_decay_ufm']

MAX_GAP = 1e-6


def collapse_count(num_samples: float, decay_w: float, decay_h: float) -> float:
    r"""n*: classes with at most so many samples (two or more of one size) share one classifier vector.

    .. math:: n^* = N^2 \lambda_W \lambda_H

    Args:
        num_samples (float): N, samples of all classes.
        decay_w (float): :math:`\lambda_W`.
        decay_h (float): :math:`\lambda_H`.

    Raises:
        ValueError: for settings that are not positive.

    Example:
        >>> round(collapse_count(3000, 0.0033, 0.0033))
        98
    """
    check_positive(num_samples=num_samples, decay_w=decay_w, decay_h=decay_h)
    return num_samples ** 2 * decay_w * decay_h


def collapse_ratio(num_head: int, num_tail: int, tail_samples: float, decay_w: float, decay_h: float) -> float:
    r"""R*: the imbalance ratio from which a tail of ``tail_samples`` a class collapses, because N grows with R.

    .. math:: R^* = \frac{1}{K_A} \left(\frac{1}{\sqrt{\lambda_W \lambda_H n_B}} - K_B\right)

    Below 1, two or more minority classes are collapsed at every ratio. A single one has none to collapse with: NaN.

    Args:
        num_head (int): Number of majority classes K_A.
        num_tail (int): Number of minority classes K_B.
        tail_samples (float): n_B.
        decay_w (float): :math:`\lambda_W`.
        decay_h (float): :math:`\lambda_H`.

    Raises:
        ValueError: for empty groups, and settings that are not positive.

    Example:
        >>> round(collapse_ratio(5, 5, 100, 0.005, 0.005), 6)
        3.0
    """
    check_positive(tail_samples=tail_samples, decay_w=decay_w, decay_h=decay_h)
    two_groups(num_head, num_tail, 1.0)  # refuses empty groups
    if num_tail < 2:
        return math.nan
    return (1 / math.sqrt(decay_w) / math.sqrt(decay_h) / math.sqrt(tail_samples) - num_tail) / num_head


def weight_decay_ufm(num_per_class: Sequence[float], decay_w: float = 3e-3, decay_h: float = 3e-3,
                     decay_b: float | None = None, *, num_head: int | None = None, tolerance: float = 1e-9,
                     max_steps: int = 100_000) -> Solution:
    r"""Global optimum of the unconstrained-feature model with weight decay, for any class counts.

    `Neural collapse for unconstrained feature model under cross-entropy loss with imbalanced data
    <https://arxiv.org/abs/2309.09725>`_:

    .. math::
        \min \frac{1}{N} \sum_i CE(W h_i + b) + \frac{\lambda_W}{2} |W|_F^2 + \frac{\lambda_H}{2} |H|_F^2
        + \frac{\lambda_b}{2} |b|^2

    With d >= K - 1 it is convex in :math:`Y = Z D^{1/2}`, D the class counts, with the penalty
    :math:`\sqrt{\lambda_W \lambda_H} \|Y\|_*`. Solved by an accelerated proximal gradient method (singular values are
    soft-thresholded) on the :class:`~allnc_mm.theory.blocks.Blocks` of Y, with adaptive steps and restarts, until the
    duality gap is below ``tolerance``. Time is that of an SVD of (groups, groups) a step.

    Args:
        num_per_class (Sequence[float]): Class counts (K,); classes of one size are one group.
        decay_w (float): :math:`\lambda_W`. Defaults to 3e-3.
        decay_h (float): :math:`\lambda_H`. Defaults to 3e-3.
        decay_b (float, optional): :math:`\lambda_b` of a bias. Defaults to None, no bias.
        num_head (int, optional): The first so many classes are group A of the table.
        tolerance (float): Relative duality gap to stop at. Defaults to 1e-9.
        max_steps (int): Steps to give up after. Defaults to 100000.

    Returns:
        Solution: its threshold is n*; ``extra`` has the relative duality gap and, of two groups, s_A and s_B of Y.

    Raises:
        ValueError: for counts or decays that are not positive.
        RuntimeError: if the gap is still above 1e-6 after ``max_steps``.

    Example:
        >>> counts = [500] * 5 + [100] * 5
        >>> [weight_decay_ufm(counts, decay, decay).collapsed for decay in (0.0033, 0.0034)]
        [False, True]
    """
    begin = time.perf_counter()
    counts = check_counts(num_per_class)
    check_positive(decay_w=decay_w, decay_h=decay_h, **({} if decay_b is None else dict(decay_b=decay_b)))
    group, sizes, samples = grouped(counts)
    total, decay = counts.sum(), math.sqrt(decay_w) * math.sqrt(decay_h)
    root, share = np.sqrt(samples), sizes * samples / counts.sum()
    number, several = len(sizes), sizes > 1

    # One vector: scalars and core of Y, and b sqrt(N), each entry times the root of its multiplicity, so that the
    # Euclidean geometry is that of the full matrices. Scaled so, Y and b need steps of one size.
    multiplicity = np.concatenate([np.sqrt(sizes - 1), np.ones(number ** 2), np.sqrt(sizes)])

    def split(x):
        x = x / np.where(multiplicity > 0, multiplicity, 1)
        return x[:number], x[number:-number].reshape(number, number), x[-number:] / math.sqrt(total)

    def smooth(x):
        scalars, core, bias = split(x)
        log_losses, log_wrong, log_single = cross_entropy(sizes, scalars / root, core / root,
                                                          None if decay_b is None else bias)
        wrong, single = np.exp(log_wrong), np.exp(log_single)
        scalars, core = slopes(sizes, wrong * root / total, single * root / total)
        value, pull = share @ np.exp(log_losses), np.zeros(number)
        if decay_b is not None:
            value += decay_b / 2 * sizes @ bias ** 2
            other = wrong - np.diag(wrong.diagonal())
            pull = ((other @ share - other.sum(0) * share) / sizes + decay_b * bias) / math.sqrt(total)
        return value, np.concatenate([scalars, core.ravel(), pull]) * multiplicity

    def shrink(x, amount):
        scalars, core, _ = split(x)
        u, singular, v = np.linalg.svd(core)
        core = (u * np.maximum(singular - amount, 0)) @ v
        scalars = np.maximum(scalars - amount, 0)  # the optimum has none below zero
        return np.concatenate([scalars * multiplicity[:number], core.ravel(), x[-number:]])

    def penalty(x):
        scalars, core, _ = split(x)
        return decay * ((sizes - 1) @ np.abs(scalars) + np.linalg.svd(core, compute_uv=False).sum())

    def gap(x):
        """Primal minus dual over primal; the dual point are the probabilities, drawn to the labels until feasible."""
        scalars, core, bias = split(x)
        _, log_wrong, _ = cross_entropy(sizes, scalars / root, core / root, None if decay_b is None else bias)
        value, gradient = smooth(x)
        scalars, core, _ = split(gradient)
        largest = max(np.abs(scalars[several]).max(initial=0), np.linalg.norm(core, 2))
        draw = min(1.0, decay / largest)
        wrong = draw * np.exp(log_wrong)
        other = wrong - np.diag(wrong.diagonal())
        missed = wrong.sum(0)
        with np.errstate(divide='ignore', invalid='ignore'):
            single = wrong / (sizes[:, None] - np.eye(number))
            entropy = -np.where(wrong > 0, wrong * np.log(single), 0).sum(0)
        entropy -= (1 - missed) * np.log1p(-missed)
        dual = share @ entropy
        if decay_b is not None:
            dual -= (((other @ share - other.sum(0) * share) ** 2) / sizes).sum() / (2 * decay_b)
        primal = value + penalty(x)
        return (primal - dual) / primal, primal

    x = np.zeros(len(multiplicity))
    ahead, momentum, step = x, 1.0, float(total)
    gradient = smooth(ahead)[1]
    for iteration in range(max_steps):
        while True:
            new = shrink(ahead - step * gradient, step * decay)
            change = new - ahead
            # by gradients: differences of values drown in rounding first
            if (smooth(new)[1] - gradient) @ change <= change @ change / step:
                break
            step /= 2
        if iteration % 25 == 0 and gap(new)[0] < tolerance:
            x = new
            break
        if np.linalg.norm(new - x) <= 1e-15 * np.linalg.norm(new):  # nothing moves any more
            x = new
            break
        following = (1 + math.sqrt(1 + 4 * momentum ** 2)) / 2
        if (ahead - new) @ (new - x) > 0:  # momentum points uphill
            following = momentum = 1.0
        ahead, x, momentum = new + (momentum - 1) / following * (new - x), new, following
        gradient = smooth(ahead)[1]
        step *= 1.1
    relative, loss = gap(x)
    if not relative < MAX_GAP:
        raise RuntimeError(f'The unconstrained-feature model with decay_w={decay_w:g}, decay_h={decay_h:g} was not '
                           f'solved in max_steps={max_steps}: relative gap {relative:.1e}. Allow more steps.')
    scalars, core, bias = split(x)
    left, right = Blocks(group, scalars, core).factors()
    stretch = (decay_h / decay_w) ** 0.25
    knobs = dict(lambda_W=decay_w, lambda_H=decay_h, **({} if decay_b is None else dict(lambda_b=decay_b)))
    return Solution(
        'weight-decay', counts, knobs, float(loss), torch.from_numpy(left * stretch),
        torch.from_numpy(right / stretch / np.sqrt(counts)[:, None]), num_head=num_head,
        threshold=collapse_count(total, decay_w, decay_h), threshold_of='n', seconds=time.perf_counter() - begin,
        extra=dict(**(dict(s_A=float(scalars[0]), s_B=float(scalars[1])) if number == 2 else {}), gap=float(relative)))


def seli(num_per_class: Sequence[float], *, num_head: int | None = None) -> Solution:
    r"""Simplex-encoded-labels interpolation: where features and classifier of any class counts tend without decay.

    `Imbalance trouble: revisiting neural-collapse geometry <https://arxiv.org/abs/2208.05512>`_. The limit of vanishing
    weight decay, and the minimum-norm solution with all margins at least one, has the logits
    :math:`\hat Z = (I - 1 1^T / K) Y`; with :math:`(I - 1 1^T / K) D^{1/2} = V L Q^T`

    .. math:: W W^T = V L V^T, \qquad \bar H^T \bar H = D^{-1/2} Q L Q^T D^{-1/2}

    Balanced, that is the simplex ETF, and the norm value (K - 1) sqrt n. The minority's classifiers close up as R grows
    and merge only in the limit, while its features spread.

    Args:
        num_per_class (Sequence[float]): Class counts (K,).
        num_head (int, optional): The first so many classes are group A of the table.

    Returns:
        Solution: its loss is the norm value, the least :math:`(|W|_F^2 + |H|_F^2) / 2`.

    Raises:
        ValueError: for counts that are not positive.

    Example:
        >>> round(seli([10] * 4).loss, 6)
        9.486833
    """
    begin = time.perf_counter()
    counts = check_counts(num_per_class)
    group, sizes, samples = grouped(counts)
    direction = np.sqrt(sizes / sizes.sum())
    root = np.sqrt(samples)
    blocks = Blocks(group, root * (sizes > 1), (np.eye(len(sizes)) - np.outer(direction, direction)) * root)
    left, right = blocks.factors()
    return Solution('seli', counts, {}, blocks.nuclear_norm(), torch.from_numpy(left),
                    torch.from_numpy(right / np.sqrt(counts)[:, None]), num_head=num_head,
                    seconds=time.perf_counter() - begin)
