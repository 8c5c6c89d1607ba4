"""Distance of a unit vector to the convex hull of the others, which softmax codes maximise, with a certificate."""
import math
from typing import NamedTuple

import numpy as np
from scipy import linalg
from torch import Tensor

from .geometry import checked_code, row_max_cosines

__all__ = ['OneVsRestDistance', 'one_vs_rest_distance', 'one_vs_rest_lower_bounds']


class OneVsRestDistance(NamedTuple):
    """Proven bounds of the least one-vs-rest distance of a code.

    Args:
        lower (float): No row is nearer to the hull of the others than this.
        upper (float): The row ``argmin`` is at most this far from it.
        argmin (int): Index of that row.
    """

    lower: float
    upper: float
    argmin: int


def one_vs_rest_lower_bounds(code: Tensor, directions: Tensor | None = None) -> Tensor:
    r"""For each row a proven lower bound of its distance to the convex hull of the other rows.

    .. math:: D_k = \operatorname{dist}(w_k, \operatorname{conv}\{w_j\}_{j \ne k})
        = \max_{|h| = 1} \min_{j \ne k} \langle w_k - w_j, h \rangle
        \ge \min_{j \ne k} \langle w_k - w_j, h_k \rangle

    for any unit directions h: cheap enough for every epoch of a training. With h = w the least bound is 1 - c, c the
    largest cosine, and exact where vectors are their own best directions (a softmax code without rattlers, GNC3); class
    means are natural directions besides.

    Args:
        code (Tensor): Shape (K, d), K >= 2; lengths do not matter.
        directions (Tensor, optional): Shape (K, d); lengths do not matter. Defaults to None: the code.

    Returns:
        Tensor: Shape (K,), float64 for a float64 code and float32 otherwise. Memory grows with K, not with K^2.

    Raises:
        ValueError: for fewer than two rows, entries that are not finite, a row of zeros, or shapes that differ.

    Example:
        >>> one_vs_rest_lower_bounds(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        tensor([1., 1., 1.])
    """
    unit = checked_code(code)
    tried = unit if directions is None else checked_code(directions, 'directions').to(unit.dtype)
    if tried.shape != unit.shape:
        raise ValueError(f'Expected `directions` of the shape of the code, {tuple(unit.shape)}, but got '
                         f'{tuple(tried.shape)}: one direction for each class.')
    return (unit * tried).sum(1) - row_max_cosines(unit, tried)


def one_vs_rest_distance(code: Tensor, *, tolerance: float = 1e-9) -> OneVsRestDistance:
    r"""Least one-vs-rest distance of a code, :math:`\rho(W) = \min_k D_k`, with a certificate.

    The distance of row k is the length of the shortest vector in the hull of the differences w_j - w_k, and that vector
    comes from one non-negative least-squares problem, :math:`\min_{u \ge 0} |P^T u|^2 + (1^T u - 1)^2`, of which any
    feasible u gives an upper bound, and the direction it points to a lower one. Rows are solved in the order of a cheap
    lower bound until the others cannot be the least: one row of a softmax code, all rows of an arbitrary one. Memory is
    O(K d); time of a row grows with the square of d times the number of neighbours that hold it.

    Args:
        code (Tensor): Shape (K, d), K >= 2; lengths do not matter.
        tolerance (float): Rows whose lower bound is within this of the upper bound found need no solution. Defaults to
            1e-9.

    Returns:
        OneVsRestDistance: ``lower``, ``upper`` and ``argmin``. Both bounds hold whatever the solver did; a gap above
        1e-9 says that it did not converge.

    Raises:
        ValueError: as :func:`one_vs_rest_lower_bounds`, or for a tolerance that is negative.

    Example:
        >>> octagon = torch.tensor([[math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)] for k in range(8)])
        >>> [round(value, 6) for value in one_vs_rest_distance(octagon)[:2]]
        [0.292893, 0.292893]
    """
    if not tolerance >= 0:
        raise ValueError(f'Expected argument `tolerance` to be at least 0, but got {tolerance}.')
    unit = checked_code(code.double())
    rows = unit.cpu().numpy()
    lower = one_vs_rest_lower_bounds(unit).cpu().numpy()
    upper, argmin = math.inf, -1
    for k in lower.argsort(kind='stable'):
        if lower[k] >= upper - tolerance:
            break
        low, high = _row_distance(rows, int(k))
        lower[k] = max(lower[k], low)
        if high < upper:
            upper, argmin = high, int(k)
    return OneVsRestDistance(float(lower.min()), upper, argmin)


def _row_distance(rows: np.ndarray, k: int) -> tuple[float, float]:
    """Bounds of the distance of row k: the problem on its nearest rows, growing until no other row cuts in."""
    cosine = rows @ rows[k]
    cosine[k] = -np.inf
    order = np.argsort(-cosine, kind='stable')[:-1]
    chosen = order[:max(64, 4 * rows.shape[1])]
    best = -np.inf, np.inf
    while True:
        mix = _min_norm_point(rows[chosen] - rows[k])
        apart = rows[k] - mix @ rows[chosen]
        upper = float(np.linalg.norm(apart))
        if upper < 1e-14:  # the row is in the hull of the others
            return 0.0, upper
        product = rows @ (apart / upper)
        margin = product[k] - product
        margin[k] = np.inf
        lower = float(margin.min())
        best = max(best[0], lower), min(best[1], upper)
        cut = np.setdiff1d(np.flatnonzero(margin < upper - 1e-12), chosen)
        if not len(cut):
            return best
        chosen = np.concatenate([chosen, cut[np.argsort(margin[cut])[:len(chosen)]]])


def _min_norm_point(points: np.ndarray) -> np.ndarray:
    """Weights of the point of least norm in the hull of ``points`` (m, d), by the algorithm of Lawson and Hanson.

    scipy.optimize.nnls is not used: on symmetric codes it ends at points that are not optimal, without an error
    (https://github.com/scipy/scipy/issues/25389).
    """
    num = len(points)
    weight, passive = np.zeros(num), np.zeros(num, dtype=bool)
    residual = np.zeros(points.shape[1]), 1.0  # of P^T u = 0 and of 1^T u = 1
    for _ in range(10 * num):
        gradient = residual[1] + points @ residual[0]
        gradient[passive] = -np.inf
        entering = int(gradient.argmax())
        if gradient[entering] <= 1e-14:
            break
        passive[entering] = True
        while True:
            index = np.flatnonzero(passive)
            value = _unconstrained(points[index])
            if value.min() > 0:
                break
            negative = value <= 0
            old = weight[index]
            step = np.min(old[negative] / (old[negative] - value[negative]).clip(1e-300))
            old = old + step * (value - old)
            old[negative & (old <= 1e-15)] = 0
            if not (old == 0).any():
                old[np.flatnonzero(negative)[old[negative].argmin()]] = 0
            weight[index] = old
            passive[index[old == 0]] = False
            if not passive.any():
                break
        previous = residual
        weight[:] = 0
        if passive.any():
            weight[index] = value
        residual = -(weight @ points), 1 - weight.sum()
        if not passive[entering] and np.array_equal(previous[0], residual[0]):
            break  # rounding: the row enters and leaves
    return weight / weight.sum()


def _unconstrained(points: np.ndarray) -> np.ndarray:
    """Least squares of P^T u = 0 and 1^T u = 1."""
    gram = points @ points.T + 1
    try:
        factor = linalg.cho_factor(gram)
        if np.diag(factor[0]).min()**2 > 1e-10 * gram.diagonal().max():
            return linalg.cho_solve(factor, np.ones(len(points)))
    except linalg.LinAlgError:
        pass
    system = np.concatenate([points.T, np.ones((1, len(points)))])
    return linalg.lstsq(system, np.append(np.zeros(points.shape[1]), 1.0), cond=1e-13)[0]
