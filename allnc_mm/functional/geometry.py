"""Target geometries: the simplex equiangular tight frame (ETF)."""
import torch
from torch import Tensor

__all__ = ['simplex_cosine', 'simplex_etf', 'unit_rows']


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
    generator = torch.Generator('cpu').manual_seed(seed)
    normal = torch.randn(dim, num_classes - 1, generator=generator, dtype=torch.float64, device='cpu')
    q, r = torch.linalg.qr(normal)
    index = torch.arange(1, num_classes, dtype=torch.float64, device='cpu')
    # Column j of B is c_j (1, .., 1, -j, 0, .., 0), c_j = 1 / sqrt(j (j + 1)), the -j in (zero-based) row j.
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0)
    columns = (q * (signs / (index * (index + 1)).sqrt())).T  # c_j q_j, shape (K-1, d)
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
