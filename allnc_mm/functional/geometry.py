"""Unit vectors on a sphere: the simplex equiangular tight frame (ETF), distances, and bounds on what exists."""
import math

import torch
from scipy import optimize, special
from torch import Tensor

__all__ = ['simplex_cosine', 'simplex_etf', 'unit_rows', 'random_rotation', 'max_cosine', 'tammes_distance', 'rattlers',
           'tammes_upper_bound', 'one_vs_rest_bounds']

BLOCK = 1024  # rows of a K x K matrix that exist at a time


def simplex_cosine(num_classes: int) -> float:
    """Cosine between any two rows of a simplex ETF, ``-1 / (K - 1)``: the least that K vectors can all have.

    Args:
        num_classes (int): Number of classes K, at least 2.

    Returns:
        float: The cosine.

    Raises:
        ValueError: if ``num_classes`` is below 2.

    Example:
        >>> simplex_cosine(5)
        -0.25
    """
    if num_classes < 2:
        raise ValueError(f'Expected argument `num_classes` to be at least 2, but got {num_classes}: a simplex needs '
                         'two classes to have an angle; check num_classes of the head and of the data set.')
    return -1.0 / (num_classes - 1)


def simplex_etf(num_classes: int, dim: int, *, seed: int = 0, dtype: torch.dtype = torch.float64,
                device: torch.device | str | None = None) -> Tensor:
    r"""Simplex equiangular tight frame in a seeded random orientation.

    .. math::
        W = \sqrt{K / (K - 1)} \, B Q^T, \qquad W W^T = \frac{K I - 1 1^T}{K - 1}

    with B (K, K-1) the Helmert basis of the complement of the vector of ones and Q (d, K-1) orthonormal, Haar
    distributed (QR of a normal matrix, signs fixed by the diagonal of R). Rows have norm 1, sum to zero, and all
    cosines are ``-1 / (K - 1)``. Unlike the form with d x K orthonormal columns, this one holds down to d = K - 1.

    The arithmetic is float64 on the CPU whatever ``dtype`` and ``device`` say, so every rank and machine gets the same
    code, and the global random state is untouched. Memory is O(K d): B is applied as a cumulative sum, never formed.

    Args:
        num_classes (int): Number of classes K, at least 2.
        dim (int): Feature dimension d, at least K - 1.
        seed (int): Seed of the orientation. Defaults to 0.
        dtype (torch.dtype): Type of the result. Defaults to ``torch.float64``.
        device (torch.device | str, optional): Device of the result. Defaults to None, the CPU.

    Returns:
        Tensor: The frame W, shape (K, d).

    Raises:
        ValueError: if K < 2, or K > d + 1, where no simplex exists.

    Example:
        >>> W = simplex_etf(5, 4)
        >>> torch.allclose(W @ W.T, 1.25 * torch.eye(5).double() - 0.25)
        True
    """
    simplex_cosine(num_classes)  # refuses fewer than two classes
    if num_classes > dim + 1:
        raise ValueError(f'A simplex ETF of num_classes={num_classes} needs dim >= {num_classes - 1}, but got '
                         f'dim={dim}. Widen the features to at least {num_classes - 1}, or use a target that exists '
                         'for K > d + 1: a softmax code, or the hinge target of the P2P loss (target=\'hinge\').')
    q = random_rotation(dim, num_classes - 1, seed=seed)
    index = torch.arange(1, num_classes, dtype=torch.float64, device='cpu')
    # Column j of B is c_j (1, .., 1, -j, 0, .., 0), c_j = 1 / sqrt(j (j + 1)), the -j in (zero-based) row j.
    columns = (q / (index * (index + 1)).sqrt()).T  # c_j q_j, shape (K-1, d)
    frame = columns.new_zeros(num_classes, dim)
    frame[:-1] = columns.flip(0).cumsum(0).flip(0)  # row i: sum over j > i of c_j q_j
    frame[1:] -= index[:, None] * columns
    frame *= (num_classes / (num_classes - 1)) ** 0.5
    return frame.to(device=device, dtype=dtype)


def unit_rows(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Divide each row by its length, safely for rows of any length.

    Rows are first divided by their largest entry, so that squares neither overflow nor vanish. A row whose entries are
    all below ``eps`` has no direction: it is returned as it is, with gradient 1 instead of the 1 / eps that a clamped
    division has.

    Args:
        x (Tensor): Rows, shape (..., d).
        eps (float): Largest entry of a row that counts as zero. Defaults to 1e-8.

    Returns:
        Tensor: Unit rows, shape and type of ``x``.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    largest = x.detach().abs().amax(dim=-1, keepdim=True)
    tiny = largest <= eps
    x = x / largest.masked_fill(tiny, 1)
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).masked_fill(tiny, 1)


def random_rotation(dim: int, columns: int | None = None, *, seed: int = 0) -> Tensor:
    """Orthonormal columns, Haar distributed: QR of a seeded normal matrix, signs fixed by the diagonal of R.

    Args:
        dim (int): Number of rows d.
        columns (int, optional): Number of columns, at most d. Defaults to None: d.
        seed (int): Defaults to 0. The global random state is untouched.

    Returns:
        Tensor: float64 of shape (d, columns).

    Example:
        >>> q = random_rotation(4)
        >>> torch.allclose(q @ q.T, torch.eye(4).double())
        True
    """
    generator = torch.Generator('cpu').manual_seed(seed)
    normal = torch.randn(dim, dim if columns is None else columns, generator=generator, dtype=torch.float64,
                         device='cpu')
    q, r = torch.linalg.qr(normal)
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0)


def checked_code(code: Tensor, name: str = 'code') -> Tensor:
    """The rows divided by their lengths, in at least float32; a ValueError unless they are K >= 2 directions."""
    if code.ndim != 2 or len(code) < 2 or code.shape[1] < 1:
        raise ValueError(f'Expected `{name}` of shape (K, d) with K >= 2 and d >= 1, but got {tuple(code.shape)}.')
    code = code.detach()
    code = code if code.dtype == torch.float64 else code.float()
    if not bool(code.isfinite().all()):
        raise ValueError(f'Expected finite entries in `{name}`, but {int((~code.isfinite()).sum())} are NaN or '
                         'infinite; leave out classes that have no vector, and check that training did not diverge.')
    if not bool((code != 0).any(dim=1).all()):
        raise ValueError(f'Expected directions in `{name}`, but {int((code == 0).all(dim=1).sum())} rows are zero; '
                         'leave out the classes that have no vector.')
    return unit_rows(code, eps=0.0)


def row_max_cosines(unit: Tensor, directions: Tensor | None = None) -> Tensor:
    """For each unit row (or each direction in its place) the largest cosine to another row, in row blocks."""
    directions = unit if directions is None else directions
    out = []
    for start in range(0, len(unit), BLOCK):
        cosine = directions[start:start + BLOCK] @ unit.T
        cosine.diagonal(start).fill_(-math.inf)
        out.append(cosine.amax(1))
    return torch.cat(out)


def max_cosine(code: Tensor) -> float:
    """Largest cosine of two different rows, the coherence that a spherical code minimises.

    Args:
        code (Tensor): Shape (K, d), K >= 2; lengths do not matter. Memory grows with K, not with K^2.

    Returns:
        float: The cosine.

    Raises:
        ValueError: for fewer than two rows, entries that are not finite, or a row of zeros.

    Example:
        >>> max_cosine(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
        0.0
    """
    return float(row_max_cosines(checked_code(code)).max())


def tammes_distance(code: Tensor) -> float:
    r"""Least distance of two unit rows, :math:`\min_{j \ne k} |w_j - w_k| = \sqrt{2 (1 - c)}`, c the largest cosine.

    The Tammes problem asks for the rows that maximise it. The one-vs-rest distance lies between 1 - c and this.

    Args:
        code (Tensor): Shape (K, d), K >= 2; lengths do not matter.

    Returns:
        float: The distance.

    Raises:
        ValueError: as :func:`max_cosine`.

    Example:
        >>> round(tammes_distance(simplex_etf(3, 2)), 6)
        1.732051
    """
    return math.sqrt(max(0.0, 2 - 2 * max_cosine(code)))


def rattlers(code: Tensor, tolerance: float = 1e-5) -> Tensor:
    """Rows that are not held by a neighbour: all their cosines are below the largest one by more than ``tolerance``.

    Such a row can move freely, and need not be its own best direction (GNC3 need not hold for it).

    Args:
        code (Tensor): Shape (K, d), K >= 2; lengths do not matter.
        tolerance (float): Defaults to 1e-5.

    Returns:
        Tensor: bool of shape (K,).

    Raises:
        ValueError: as :func:`max_cosine`.

    Example:
        >>> rattlers(torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0]]))
        tensor([False, False,  True])
    """
    largest = row_max_cosines(checked_code(code))
    return largest < largest.max() - tolerance


def check_size(num_classes: int, dim: int) -> None:
    """Refuse sizes for which there are no K different unit vectors, by a ValueError."""
    simplex_cosine(num_classes)  # refuses fewer than two classes
    if dim < 1:
        raise ValueError(f'Expected argument `dim` to be at least 1, but got {dim}: give that of the features.')
    if dim == 1 and num_classes > 2:
        raise ValueError(f'Expected `dim` to be at least 2 for num_classes={num_classes}, but got 1: a line has only '
                         'two directions; widen the features.')


def tammes_upper_bound(num_classes: int, dim: int) -> float:
    r"""Levenshtein's upper bound of 1 - c, c the largest cosine of K unit vectors in d dimensions.

    It is attained by simplices, cross-polytopes and sharp configurations. It bounds codes whose vectors are their own
    best directions (the tied problem), not the one-vs-rest distance of every arrangement.

    Args:
        num_classes (int): K >= 2.
        dim (int): d >= 1.

    Returns:
        float: The bound; :func:`tammes_distance` is at most sqrt(2 * bound).

    Raises:
        ValueError: if K < 2, d < 1, or K > 2 on a line.

    Example:
        >>> round(tammes_upper_bound(100, 22), 6), round(10 / 11, 6)
        (0.909091, 0.909091)
    """
    check_size(num_classes, dim)
    if num_classes <= dim + 1:
        return 1 - simplex_cosine(num_classes)
    if dim == 2:
        return 1 - math.cos(2 * math.pi / num_classes)

    def gegenbauer(k: int, s: float) -> float:  # 1 at s = 1
        a = (dim - 3) / 2
        return special.eval_jacobi(k, a, a, s) / special.eval_jacobi(k, a, a, 1.0)

    def levenshtein(k: int, odd: bool, s: float) -> float:  # the largest number of vectors with cosines up to s
        p, q = gegenbauer(k, s), gegenbauer(k - 1, s) if odd else gegenbauer(k + 1, s)
        if odd:  # degree 2k - 1
            return special.comb(k + dim - 3, k - 1) * ((2 * k + dim - 3) / (dim - 1) - (q - p) / ((1 - s) * p))
        return special.comb(k + dim - 2, k) * (
            (2 * k + dim - 1) / (dim - 1) - (1 + s) * (p - q) / ((1 - s) * (p + q)))

    low, k = -1.0, 1
    while True:  # the intervals of the degrees end at zeros of Jacobi polynomials
        for odd in (True, False):
            high = float(special.roots_jacobi(k, (dim - 1) / 2, (dim - 3) / 2 if odd else (dim - 1) / 2)[0].max())
            if levenshtein(k, odd, high) >= num_classes:
                inside = max(low, -1 + 1e-12)
                if levenshtein(k, odd, inside) >= num_classes:
                    return 1 - inside
                return 1 - float(optimize.brentq(lambda s, k=k, odd=odd: levenshtein(k, odd, s) - num_classes,
                                                 inside, high, xtol=1e-15))
            low = high
        k += 1


def one_vs_rest_bounds(num_classes: int, dim: int) -> tuple[float, float]:
    r"""What is proven of the largest one-vs-rest distance that K unit vectors in d dimensions can have.

    The lower one is that of the covering argument in the GNC paper (arXiv 2310.05351),
    :math:`\frac12 [\frac{\sqrt\pi}{K} \Gamma(\frac{d+1}{2}) / \Gamma(\frac d2 + 1)]^{2 / (d-1)}`; a code's own distance
    is far better. The upper one is the least of K / (K - 1); of 1 for K >= d + 2; and of the paper's
    :math:`2 [\frac{2 \sqrt\pi}{K} \Gamma(\frac{d+1}{2}) / \Gamma(\frac d2)]^{1 / (d-1)}`. Where the distance is known
    (K <= 2d or d = 2) both are that.

    Args:
        num_classes (int): K >= 2.
        dim (int): d >= 1.

    Returns:
        tuple[float, float]: lower and upper bound.

    Raises:
        ValueError: if K < 2, d < 1, or K > 2 on a line.

    Example:
        >>> one_vs_rest_bounds(5, 4)
        (1.25, 1.25)
    """
    check_size(num_classes, dim)
    if num_classes <= dim + 1:
        return (1 - simplex_cosine(num_classes), ) * 2
    if dim == 2:
        return (1 - math.cos(2 * math.pi / num_classes), ) * 2
    if num_classes <= 2 * dim:
        return 1.0, 1.0
    gamma = math.log(math.pi) / 2 - math.log(num_classes) + math.lgamma((dim + 1) / 2)
    lower = 0.5 * math.exp(2 / (dim - 1) * (gamma - math.lgamma(dim / 2 + 1)))
    upper = 2 * math.exp(1 / (dim - 1) * (math.log(2) + gamma - math.lgamma(dim / 2)))
    return lower, min(1.0, upper)
