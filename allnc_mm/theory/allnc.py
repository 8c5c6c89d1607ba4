"""The layer-peeled model with the terms of AllNC, where minority collapse vanishes."""
from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..functional import (
    ClassStatistics,
    class_means,
    hycon_loss,
    logit_adjusted_cross_entropy,
    nc1,
    p2p_loss,
    sampling_distribution,
)
from .blocks import check_positive, two_groups
from .solution import Solution

__all__ = ['allnc_layer_peeled', 'allnc_sweep']


def allnc_layer_peeled(num_head: int, num_tail: int, ratio: float, energy_w: float = 1.0, energy_h: float = 1.0, *,
                       hycon: float = 1.0, p2p: float = 1.0, eta: float = 0.5, q: float = 0.0,
                       dim: int | None = None, features_per_class: int = 4, tail_samples: float = 1.0,
                       threshold: float = math.nan, seed: int = 0) -> Solution:
    r"""Layer-peeled model, all of W and H free, under cross-entropy and AllNC's terms.

    .. math::
        \min \; \eta \, CE + (1 - \eta) \, LA + \lambda_h \, HyCon + \lambda_p \, P2P \quad \text{s.t.} \quad
        \frac{1}{K} \sum_k |w_k|^2 = E_W, \quad \frac{1}{K} \sum_k \frac{1}{n_k} \sum_{i \in k} |h_i|^2 = E_H

    with LA the cross-entropy of the re-balanced branch, whose sampler draws classes in proportion to n_k^q and which is
    adjusted to the prior that is left. eta = 1 leaves the imbalance to plain cross-entropy, so that only the geometry
    holds the minority up: it keeps the angles, but not the lengths. Without all three terms the model is that of
    :func:`~allnc_mm.theory.layer_peeled.layer_peeled`, and ends there.

    Each class has ``features_per_class`` features, each of which stands for an equal share of the class's samples.
    Descent by L-BFGS in float64 from a random start; the losses are those that the training uses (HyCon without its
    stop-gradient, which no objective has), with float32 arithmetic in the added terms: ratios of lengths are good to
    three digits, and where vectors all but vanish to none.

    Args:
        num_head (int): Number of majority classes K_A.
        num_tail (int): Number of minority classes K_B.
        ratio (float): R = n_A / n_B, at least 1.
        energy_w (float): E_W. Defaults to 1.
        energy_h (float): E_H. Defaults to 1.
        hycon (float): Weight of HyCon (features to their class mean). Defaults to 1.
        p2p (float): Weight of P2P (means and classifier to the simplex ETF). Defaults to 1.
        eta (float): Weight of the natural branch, in [0, 1]; a training goes from 1 to 0. Defaults to 0.5.
        q (float): Exponent of the re-balanced branch's sampler; 0 is class-balanced. Defaults to 0.
        dim (int, optional): d, at least K - 1. Defaults to K.
        features_per_class (int): Defaults to 4.
        tail_samples (float): n_B, which moves nothing but the table. Defaults to 1.
        threshold (float): R* of cross-entropy alone, if known, for the table.
        seed (int): Seed of the start. Defaults to 0.

    Returns:
        Solution: ``extra`` has the cross-entropy alone.

    Raises:
        ValueError: for settings that are out of range.

    Example:
        >>> allnc_layer_peeled(2, 2, ratio=100.0).collapsed
        False
    """
    begin = time.perf_counter()
    check_positive(energy_w=energy_w, energy_h=energy_h, tail_samples=tail_samples)
    counts = two_groups(num_head, num_tail, ratio, tail_samples)
    number = len(counts)
    dim = number if dim is None else dim
    if dim < number - 1:
        raise ValueError(f'Expected `dim` of at least K - 1 = {number - 1}, but got {dim}: below, there is no simplex '
                         'ETF for P2P to aim at.')
    if not 0 <= eta <= 1:
        raise ValueError(f'Expected `eta` in [0, 1], but got {eta}.')
    for name, value in (('hycon', hycon), ('p2p', p2p)):
        if not 0 <= value < math.inf:
            raise ValueError(f'Expected `{name}` to be a weight that is not negative, but got {value}.')
    if features_per_class < 1:
        raise ValueError(f'Expected `features_per_class` to be at least 1, but got {features_per_class}.')

    labels = torch.arange(number).repeat_interleave(features_per_class)
    share = torch.from_numpy(counts / counts.sum())
    drawn = torch.from_numpy(sampling_distribution(counts, q))
    natural_weights, drawn_weights = (part[labels] / features_per_class for part in (share, drawn))
    log_prior = drawn.log()
    sizes = (number * dim, len(labels) * dim)
    lengths = (math.sqrt(number * energy_w), math.sqrt(len(labels) * energy_h))

    def unpack(x: Tensor) -> tuple[Tensor, Tensor]:
        weight, features = (length * part / part.norm() for part, length in zip(x.split(sizes), lengths))
        return weight.view(number, dim), features.view(-1, dim)

    def losses(weight: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy, and the objective."""
        logits = features @ weight.T
        natural = total = natural_weights @ cross_entropy(logits, labels, reduction='none')
        if eta < 1:
            rebalanced = logit_adjusted_cross_entropy(logits, labels, log_prior).double()
            total = eta * natural + (1 - eta) * (drawn_weights @ rebalanced)
        if hycon or p2p:
            means, _ = class_means(features, labels, number)
        if hycon:
            pull = hycon_loss(features, features, labels, means, positives=['mean'], stop_gradient=False)
            total = total + hycon * pull
        if p2p:
            total = total + p2p * p2p_loss(means, weight)
        return natural, total

    def objective(x):
        free = torch.from_numpy(x).requires_grad_()
        total = losses(*unpack(free))[1]
        total.backward()
        return total.item(), free.grad.numpy()

    x = np.random.default_rng(seed).normal(size=sum(sizes))
    x = minimize(objective, x, jac=True, method='L-BFGS-B',
                 options=dict(maxiter=5000, maxfun=10_000, ftol=1e-15, gtol=1e-9, maxcor=20)).x
    with torch.no_grad():
        weight, features = unpack(torch.from_numpy(x))
        natural, total = losses(weight, features)
    stats = ClassStatistics(number, dim)
    stats.update(features, labels)
    knobs = dict(R=ratio, E_W=energy_w, E_H=energy_h, hycon=hycon, p2p=p2p, eta=eta, q=q)
    return Solution('allnc', counts, knobs, total.item(), weight, stats.means, num_head=num_head, nc1=nc1(stats),
                    threshold=threshold, threshold_of='R', seconds=time.perf_counter() - begin,
                    extra=dict(ce=natural.item()))


def allnc_sweep(num_head: int, num_tail: int, ratios: Sequence[float], energy_w: float = 1.0, energy_h: float = 1.0,
                **settings) -> list[Solution]:
    """:func:`allnc_layer_peeled` over imbalance ratios, every time from a random start.

    Args:
        num_head, num_tail, energy_w, energy_h: As there.
        ratios (Sequence[float]): Imbalance ratios.
        **settings: The others.

    Returns:
        list[Solution]: One a ratio.
    """
    return [allnc_layer_peeled(num_head, num_tail, ratio, energy_w, energy_h, **settings) for ratio in ratios]
