"""Softmax codes: K unit vectors in d dimensions, each as far as can be from the convex hull of the others."""
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .geometry import BLOCK, check_size, checked_code, max_cosine, unit_rows
from .structured_codes import exact_code, structured_code

__all__ = ['softmax_code', 'refine_code']

_Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
_LAST = 3e6  # final inverse temperature: the maximum is log(K^2) / 3e6 away
_CHAINS = 16  # arrangements that are optimised side by side


def softmax_code(num_classes: int,
                 dim: int,
                 *,
                 restarts: int | None = None,
                 hops: int = 24,
                 seed: int = 0,
                 seconds: float | None = None,
                 dtype: torch.dtype = torch.float64,
                 device: torch.device | str | None = None) -> Tensor:
    r"""The arrangement of K unit vectors in d dimensions with the largest one-vs-rest distance that we can find.

    Generalised neural collapse (Jiang et al., `arXiv 2310.05351 <https://arxiv.org/abs/2310.05351>`_): with few
    dimensions, many classes and a small temperature, classifier vectors and class means tend to the softmax code

    .. math:: \arg\max_W \rho(W), \quad \rho(W) = \min_k \operatorname{dist}(w_k, \operatorname{conv}\{w_j\}_{j \ne k})

    Where the optimum is known in closed form it is returned (:func:`exact_code`: K <= 2d, d = 2, sharp configurations).
    Otherwise the best of these:

    - an algebraic code (:func:`structured_code`), which for thousands of classes is far better than what optimisation
      from random vectors finds;
    - a search: ``restarts`` random starts minimise :math:`\frac1b \log \sum_{j \ne k} \exp(b \, w_j \cdot w_k)` by
      L-BFGS while b grows, the best 16 are perturbed and minimised again ``hops`` times, and the best are finished in
      float64 with directions of their own, :math:`\frac1b \log \sum_{j \ne k} \exp(b \, (w_j - w_k) \cdot h_k)`.

    The result is judged by its proven distance; :func:`one_vs_rest_distance` gives the certificate. It is the same for
    the same arguments, on every rank and whatever the number of threads, unless ``seconds`` is given; processors of
    different make may round differently, and :func:`allnc_mm.geometry_cache.cached_softmax_code` takes care of those.
    The arithmetic is on the CPU whatever ``dtype`` and ``device`` say; memory is O(K d) beyond 2000 classes.

    Args:
        num_classes (int): Number of classes K, at least 2.
        dim (int): Feature dimension d, at least 1; at least 2 for K > 2.
        restarts (int, optional): Random starts. 0: the algebraic code alone, where there is one. Defaults to None: 32,
            fewer the more it costs, and 0 where a search would take minutes.
        hops (int): Rounds of perturbation. Defaults to 24.
        seed (int): Seed of the starts and of the orientation. Defaults to 0.
        seconds (float, optional): Search for this long instead of counting ``restarts`` and ``hops``. Defaults to None.
        dtype (torch.dtype): Type of the result. Defaults to ``torch.float64``.
        device (torch.device | str, optional): Device of the result. Defaults to None, the CPU.

    Returns:
        Tensor: The code W, shape (K, d), rows of length 1.

    Raises:
        ValueError: if K < 2, d < 1, K > 2 with d = 1, or restarts, hops or seconds are negative.

    Example:
        >>> W = softmax_code(8, 2)
        >>> round(max_cosine(W), 6)  # the octagon
        0.707107
    """
    check_size(num_classes, dim)
    for name, value in (('restarts', restarts), ('hops', hops), ('seconds', seconds)):
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f'Expected argument `{name}` to be at least 0 and finite, but got {value}.')
    code = exact_code(num_classes, dim, seed=seed)
    if code is None:
        known = structured_code(num_classes, dim, seed=seed)
        code = None if known is None else known[1]
        if restarts is None:
            restarts = int(min(32, 1e9 / (num_classes**2 * (dim + 100))))
        if code is None:
            restarts = max(restarts, 1)
        if restarts or seconds:
            clock = _Clock(seconds)
            with _one_thread(num_classes**2 * dim < 1e8):
                code = _search(num_classes, dim, code, restarts, hops, seed, clock)
    assert code is not None  # the search starts from random vectors where there is no code
    return code.to(device=device, dtype=dtype)


def refine_code(code: Tensor, *, steps: int = 100, seconds: float | None = None,
                sharpness: float | None = None) -> Tensor:
    """Spread the rows of a code further, on its device and in its dtype: for sizes where a step takes seconds.

    The log-sum-exp of all cosines is minimised as in :func:`softmax_code`, in blocks of rows. A row of the result is
    never nearer to another than in ``code``: if nothing better is found, ``code`` comes back.

    Args:
        code (Tensor): Shape (K, d), K >= 2. float32 suffices for cosines to 1e-6.
        steps (int): Steps of L-BFGS at each of the inverse temperatures. Defaults to 100.
        seconds (float, optional): Stop after this time at the latest. Defaults to None.
        sharpness (float, optional): First inverse temperature; it grows by 10^0.5 until cosines are resolved to 1e-5.
            Defaults to None: 8 over the spread of the cosines.

    Returns:
        Tensor: Unit rows, shape, device and dtype of ``code``.

    Raises:
        ValueError: as :func:`max_cosine`.

    Example:
        >>> rows = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
        >>> max_cosine(refine_code(rows)) < max_cosine(rows)
        True
    """
    unit = checked_code(code)
    best, least = unit, max_cosine(unit)
    clock = _Clock(seconds)
    if sharpness is None:
        sharpness = 8 * unit.shape[1]**0.5
    x = unit[None, None]
    for b in _schedule(sharpness, max(1e5, 10 * sharpness), 10**0.5):
        if clock.over():
            break
        x, _ = _lbfgs(_blocked_objective(b), x, b, steps, clock, memory=4)
        cosine = max_cosine(x[0, 0])
        if cosine < least:
            best, least = x[0, 0], cosine
    return best.to(code.dtype)


class _Clock:
    """The time that is left, in shares of a budget; without a budget it never runs out."""

    def __init__(self, seconds: float | None) -> None:
        self.start, self.seconds = time.monotonic(), seconds

    def over(self, share: float = 1.0) -> bool:
        return self.seconds is not None and time.monotonic() - self.start >= share * self.seconds


@contextmanager
def _one_thread(small: bool) -> Iterator[None]:
    """Sums do not depend on the number of threads; small products gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if small else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _schedule(first: float, last: float, factor: float) -> list[float]:
    """Inverse temperatures in geometric steps, the last one included."""
    count = max(0, math.ceil(math.log(last / first) / math.log(factor) - 1e-9))
    return [first * factor**i for i in range(count)] + [last]


def _tied_objective(b: float) -> _Objective:
    """Log-sum-exp of the cosines for a batch (R, 1, K, d) of unit rows, and the gradient."""

    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        w = x[:, 0]
        s = w @ w.transpose(1, 2)
        s.diagonal(dim1=1, dim2=2).fill_(-3)
        largest = s.amax((1, 2), keepdim=True)
        p = s.sub_(largest).mul_(b).clamp_(min=-60).exp_()  # below e^-60 numbers get slow and say nothing
        total = p.sum((1, 2), keepdim=True)
        return (largest + total.log() / b)[:, 0, 0], (2 * (p @ w) / total)[:, None]

    return objective


def _free_objective(b: float) -> _Objective:
    """Log-sum-exp of <w_j - w_k, h_k> for a batch (R, 2, K, d) of unit rows w and h, and the gradient."""

    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        w, h = x[:, 0], x[:, 1]
        s = h @ w.transpose(1, 2)
        s -= s.diagonal(dim1=1, dim2=2)[..., None].clone()
        s.diagonal(dim1=1, dim2=2).fill_(-4)
        largest = s.amax((1, 2), keepdim=True)
        p = s.sub_(largest).mul_(b).clamp_(min=-60).exp_()
        mass = p.sum(2, keepdim=True)
        total = mass.sum(1, keepdim=True)
        grad = torch.stack([p.transpose(1, 2) @ h - mass * h, p @ w - mass * w], 1)
        return (largest + total.log() / b)[:, 0, 0], grad / total[:, None]

    return objective


def _blocked_objective(b: float) -> _Objective:
    """:func:`_tied_objective` of a batch of one, in blocks of rows: K x K numbers never exist at a time."""

    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        w = x[0, 0]
        grad, total = torch.zeros_like(w), w.new_zeros(())
        largest = w.new_full((), -2.0)
        for start in range(0, len(w), BLOCK):
            s = w[start:start + BLOCK] @ w.T
            s.diagonal(start).fill_(-3)
            previous, largest = largest, torch.maximum(largest, s.amax())
            shrink = ((previous - largest) * b).exp()
            p = s.sub_(largest).mul_(b).clamp_(min=-60).exp_()
            total = total * shrink + p.sum()
            grad *= shrink
            grad[start:start + BLOCK] = p @ w
        return (largest + total.log() / b)[None], (grad.mul_(2 / total))[None, None]

    return objective


def _lbfgs(objective: _Objective, x: Tensor, b: float, steps: int, clock: _Clock, memory: int = 8,
           share: float = 1.0) -> tuple[Tensor, Tensor]:
    """Minimise over unit rows, all members of the batch at once, each with its own L-BFGS and backtracking.

    Args:
        objective (Callable): Unit rows (R, n, K, d) to values (R,) and their gradients.
        x (Tensor): Start, shape (R, n, K, d).
        b (float): Inverse temperature: progress below 1e-7 / b per step ends the minimisation.
        steps (int): Largest number of steps.
        clock (_Clock): Ends it too, when ``share`` of its time has passed.
        memory (int): Pairs of differences that are kept. Defaults to 8.

    Returns:
        tuple[Tensor, Tensor]: unit rows of the shape of ``x``, and their values (R,).
    """
    shape = x.shape
    num = len(x)

    def evaluate(flat: Tensor) -> tuple[Tensor, Tensor]:
        rows = flat.view(shape)
        norm = rows.norm(dim=-1, keepdim=True)
        unit = rows / norm
        value, grad = objective(unit)
        grad -= (grad * unit).sum(-1, keepdim=True) * unit
        return value, grad.div_(norm).view(num, -1)

    x = (x / x.norm(dim=-1, keepdim=True)).reshape(num, -1)
    value, grad = evaluate(x)
    scale = 0.1 / grad.norm(dim=1).clamp_min(1e-30)  # of the inverse Hessian
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(steps):
        direction = grad.clone()
        factors = []
        for s, y, curvature in reversed(pairs):
            factor = (s * direction).sum(1, keepdim=True) * curvature
            direction.addcmul_(y, factor, value=-1)
            factors.append(factor)
        direction *= scale[:, None]
        for (s, y, curvature), factor in zip(pairs, reversed(factors)):
            direction.addcmul_(s, factor - (y * direction).sum(1, keepdim=True) * curvature)
        slope = -(direction * grad).sum(1)
        uphill = slope >= 0
        direction = torch.where(uphill[:, None], grad * scale[:, None], direction).neg_()
        slope = torch.where(uphill, -(grad * grad).sum(1) * scale, slope)

        step = torch.ones_like(value)
        for _ in range(12):
            there = x + step[:, None] * direction
            new_value, new_grad = evaluate(there)
            enough = new_value <= value + 1e-4 * step * slope
            if bool(enough.all()):
                break
            step = torch.where(enough, step, 0.3 * step)
        accept = new_value < value
        s, y = there - x, new_grad - grad
        product, square = (s * y).sum(1), (y * y).sum(1)
        good = accept & (product > 1e-10 * square.sqrt() * s.norm(dim=1))
        pairs.append((s, y, torch.where(good, 1 / product, 0.0)[:, None]))  # a bad pair has no weight
        del pairs[:-memory]
        scale = torch.where(good, product / square.clamp_min(1e-30), scale)
        progress = torch.where(accept, value - new_value, 0.0)
        x = torch.where(accept[:, None], there, x)
        value = torch.where(accept, new_value, value)
        grad = torch.where(accept[:, None], new_grad, grad)
        if bool((progress <= 1e-7 / b).all()) or clock.over(share):
            break
    x = x.view(shape)
    return x / x.norm(dim=-1, keepdim=True), value


def _anneal(x: Tensor, schedule: Sequence[float], steps: int, clock: _Clock, share: float = 1.0,
            free: bool = False) -> tuple[Tensor, Tensor]:
    """Minimise along growing inverse temperatures; unit rows and the last values."""
    blocked = x.shape[2] > 2 * BLOCK and not free
    kind = _free_objective if free else _blocked_objective if blocked else _tied_objective
    for b in schedule:
        x, value = _lbfgs(kind(b), x, b, steps, clock, share=share)
    return x, value


def _search(num_classes: int, dim: int, known: Tensor | None, restarts: int, hops: int, seed: int,
            clock: _Clock) -> Tensor:
    """Random restarts, perturbations of the best, and a finish in float64: see :func:`softmax_code`."""
    generator = torch.Generator('cpu').manual_seed(seed)
    timed = clock.seconds is not None
    chains = max(1, min(_CHAINS, int(4e6 / num_classes**2)))
    top = 3e4 if dim <= 4 else 3e3
    steps = min(300, max(60, num_classes * dim // 25))

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def one_of(values: Sequence[float]) -> float:
        return values[int(torch.randint(len(values), (), generator=generator))]

    population = values = None
    done = 0
    while done < restarts or timed and not clock.over(0.4):
        # slow cooling finds rare good basins that no number of fast restarts does, and takes several times as long
        slow = timed and done // chains % 2 == 1
        first = one_of([5.0, 20.0, 60.0, 200.0]) if dim <= 4 else 5.0 if slow else 10.0
        size = chains if timed else min(chains, restarts - done)
        start = unit_rows(random(size, 1, num_classes, dim))
        schedule = _schedule(first, top, 10**0.25 if slow else 10**0.3)
        x, value = _anneal(start, schedule, 300 if slow else steps, clock, 0.5)
        population = x if population is None else torch.cat([population, x])
        values = value if values is None else torch.cat([values, value])
        keep = values.argsort()[:chains]
        population, values = population[keep], values[keep]
        done += size
        if timed and clock.over(0.4):
            break
    if known is not None:
        near = known.float() + 0.02 / dim**0.5 * random(num_classes, dim)
        x, value = _anneal(unit_rows(near)[None, None], _schedule(100.0, top, 10**0.5), steps, clock, 0.6)
        population = x if population is None else torch.cat([population, x])
        values = value if values is None else torch.cat([values, value])
    assert population is not None and values is not None

    hop = 0
    while hop < hops or timed:
        if timed and clock.over(0.85):
            break
        x = population.clone()
        for rows in x[:, 0]:  # shake the rows around a random direction: from three of them to all
            amount = math.exp(uniform(math.log(0.05), math.log(0.8)))
            size = max(3, round(math.exp(uniform(math.log(3), math.log(num_classes)))))
            near = (rows @ random(dim)).topk(min(size, num_classes)).indices
            rows[near] += amount / dim**0.5 * random(len(near), dim)
        x, value = _anneal(x, _schedule(one_of([32.0, 100.0, 300.0]), top, 10**0.5), steps, clock, 0.9)
        better = value < values
        population = torch.where(better[:, None, None, None], x, population)
        values = torch.where(better, value, values)
        hop += 1
    return _finish(population[values.argsort()[:4]].double(), known, clock, top)


def _finish(x: Tensor, known: Tensor | None, clock: _Clock, top: float) -> Tensor:
    """The best few to the last digits, tied and with free directions; that with the largest proven distance."""
    found = [] if known is None else [(1 - max_cosine(known), known)]
    x, _ = _anneal(x, _schedule(top, _LAST, 10**0.5), 200, clock, 0.95)
    found += [(1 - max_cosine(rows), rows) for rows in x[:, 0]]
    if x.shape[2] <= 2 * BLOCK:
        order = torch.tensor([-distance for distance, _ in found[-len(x):]]).argsort()[:2]
        x = x[order].repeat(1, 2, 1, 1)
        x, _ = _anneal(x, _schedule(300.0, _LAST, 10**0.5), 150, clock, free=True)
        for w, h in x:
            margin = (h * w).sum(1, keepdim=True) - (h @ w.T)
            found.append((float(margin.fill_diagonal_(math.inf).min()), w))
    return max(found, key=lambda pair: pair[0])[1]
