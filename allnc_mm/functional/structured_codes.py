"""Arrangements of K unit vectors in d dimensions that are known in closed form: optimal ones, and good large ones."""
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .geometry import random_rotation, simplex_etf

__all__ = ['exact_code', 'structured_code', 'StructuredCode']


class StructuredCode(NamedTuple):
    """A code known in closed form.

    Args:
        name (str): The construction.
        dim (int): Dimension d of its space.
        size (int): Number of its vectors.
        max_cosine (float): The largest cosine of two of them, known without building it.
        build (Callable[[int], np.ndarray]): The first so many rows, shape (K, d).
    """

    name: str
    dim: int
    size: int
    max_cosine: float
    build: Callable[[int], np.ndarray]


def exact_code(num_classes: int, dim: int, *, seed: int = 0) -> Tensor | None:
    r"""The softmax code where it is known: its one-vs-rest distance is the largest possible.

    - K <= d + 1: the simplex ETF, distance K / (K - 1).
    - d + 2 <= K <= 2d: K - d simplices of (almost) equal size in orthogonal subspaces, distance 1 for every row. At
      K = 2d they are the 2d vectors of the cross-polytope. The optimum is not unique; this one sums to zero, spans the
      space, and treats all classes alike up to one vertex of a simplex.
    - d = 2: the regular polygon, distance 1 - cos(2 pi / K).
    - Proven optimal spherical codes of the icosahedron, the 24-cell, the 600-cell, the E8 and the Leech lattice, most
      of them sharp configurations (Cohn and Kumar, 2007): distance 1 minus their largest cosine, the largest among
      arrangements whose vectors are their own best directions.

    Args:
        num_classes (int): K >= 2.
        dim (int): d >= 1; K <= 2 for d = 1.
        seed (int): Seed of the random orientation. Defaults to 0.

    Returns:
        Tensor | None: float64 of shape (K, d), or None where no such code is known.

    Example:
        >>> code = exact_code(5, 3)
        >>> round((code @ code.T).fill_diagonal_(-1).max().abs().item(), 9)
        0.0
    """
    if num_classes <= dim + 1:
        return simplex_etf(num_classes, dim, seed=seed)
    if num_classes <= 2 * dim:
        rows = _orthogonal_simplices(num_classes, dim)
    elif dim == 2:
        angle = 2 * math.pi / num_classes * np.arange(num_classes)
        rows = np.stack([np.cos(angle), np.sin(angle)], 1)
    elif (dim, num_classes) in _SHARP:
        rows = _SHARP[dim, num_classes].build(num_classes)
    else:
        return None
    return _placed(rows, dim, seed)


def structured_code(num_classes: int, dim: int, *, seed: int = 0) -> tuple[str, Tensor] | None:
    r"""The algebraic code with the least largest cosine c: a good code at once for any K; no optimisation.

    Its one-vs-rest distance is at least 1 - c. Candidates besides :func:`exact_code`:

    - Codes over a field of q elements, each symbol mapped to a vertex of a simplex in q - 1 dimensions: a code of
      length n whose words agree in at most h places has d = n (q - 1) and c = (q h - n) / (n (q - 1)). Used are
      Reed-Solomon codes (q^k words, h = k - 1, n <= q + 1) and the code of the elliptic quadric (q^4 words, h = q + 1,
      n <= q^2 + 1), for which c = 1 / (q^2 + 1). Where fewer words are needed, the first symbol takes only r values,
      its simplex has r vertices, and its weight q (r - 1) / ((q - 1) r) makes the cosines of words that agree and that
      differ in it equal.
    - Kerdock codes: d / 2 + 1 mutually unbiased orthonormal bases and their negatives, K <= d (d + 2), d a power of 4,
      c = 1 / sqrt(d).
    - Subsets of the sharp configurations.

    Args:
        num_classes (int): K >= 2.
        dim (int): d >= 1.
        seed (int): Seed of the random orientation. Defaults to 0.

    Returns:
        tuple[str, Tensor] | None: name of the construction and the float64 rows of shape (K, d); None where no
        candidate holds K rows.

    Example:
        >>> name, code = structured_code(100, 20)
        >>> name, tuple(code.shape)
        ('Reed-Solomon q=5 n=5 k=3', (100, 20))
    """
    code = exact_code(num_classes, dim, seed=seed)
    if code is not None:
        return 'exact', code
    best = min(structured_codes(num_classes, dim), key=lambda known: known.max_cosine, default=None)
    return None if best is None else (best.name, _placed(best.build(num_classes), dim, seed))


def _placed(rows: np.ndarray, dim: int, seed: int) -> Tensor:
    """Unit rows in a random orientation of a space of ``dim`` dimensions."""
    code = torch.from_numpy(rows).double()
    return (code / code.norm(dim=1, keepdim=True)) @ random_rotation(dim, seed=seed)[:code.shape[1]]


def _simplex(num: int) -> np.ndarray:
    """The simplex of ``num`` vertices in num - 1 dimensions; a single vertex has none."""
    return simplex_etf(num, num - 1).numpy() if num > 1 else np.zeros((1, 0))


def _orthogonal_simplices(num_classes: int, dim: int) -> np.ndarray:
    rows, top, left = np.zeros((num_classes, dim)), 0, 0
    for size in map(len, np.array_split(np.arange(num_classes), num_classes - dim)):
        rows[top:top + size, left:left + size - 1] = _simplex(size)
        top, left = top + size, left + size - 1
    return rows


# --- candidates -------------------------------------------------------------------------------------------------------

def structured_codes(num_classes: int, dim: int) -> Iterator[StructuredCode]:
    """All that hold ``num_classes`` rows in ``dim`` dimensions, the field codes at their best for that number."""
    for code in [*_SHARP.values(), *_kerdock_codes(dim)]:
        if code.dim <= dim and num_classes <= code.size:
            yield code
    for q in _prime_powers(min(dim + 1, 256)):
        for kind, k, longest, agree in [('elliptic quadric', 4, q * q + 1, q + 1),
                                        *(('Reed-Solomon', k, q + 1, k - 1) for k in range(2, 9))]:
            if q**k < num_classes:
                continue
            values = -(-num_classes // q**(k - 1))  # r, of the first symbol
            length = min(longest, (dim - values + 1) // (q - 1) + 1)
            if length < max(k, agree + 1):
                continue
            weight = q * (values - 1) / ((q - 1) * values)
            cosine = (weight + agree - 1 - (length - agree) / (q - 1)) / (length - 1 + weight)
            yield StructuredCode(f'{kind} q={q} n={length} k={k}', (length - 1) * (q - 1) + values - 1,
                                 values * q**(k - 1), cosine, functools.partial(
                                     _simplex_mapped, kind, q, k, length, values, weight))


def _prime_powers(largest: int) -> Iterator[int]:
    for q in range(2, largest + 1):
        prime = next(p for p in range(2, q + 1) if q % p == 0)
        if prime**round(math.log(q, prime)) == q:
            yield q


@functools.lru_cache(maxsize=8)
def _field(q: int) -> tuple[np.ndarray, np.ndarray]:
    """Addition and multiplication tables of the field of q elements, which are numbered by their digits base p."""
    p = next(p for p in range(2, q + 1) if q % p == 0)
    m = round(math.log(q, p))
    digits = np.arange(q)[:, None] // p**np.arange(m) % p
    place = p**np.arange(m)
    add = ((digits[:, None] + digits) % p) @ place
    if m == 1:
        return add, np.arange(q)[:, None] * np.arange(q) % p
    for low in digits:  # x^m = -low: take the first polynomial for which x generates the multiplicative group
        element, powers = digits[1], []
        for _ in range(q - 1):
            powers.append(int(element @ place))
            element = (np.concatenate([[0], element[:-1]]) - element[-1] * low) % p
        if len(set(powers)) == q - 1 and 0 not in powers:
            break
    log = np.zeros(q, dtype=int)
    log[powers] = np.arange(1, q)
    mul = np.zeros((q, q), dtype=int)
    mul[1:, 1:] = np.array(powers)[(log[1:, None] + log[1:] - 2) % (q - 1)]
    return add, mul


def _simplex_mapped(kind: str, q: int, k: int, length: int, values: int, weight: float,
                    num_classes: int) -> np.ndarray:
    """Words of a linear code as points: see :func:`structured_code`."""
    add, mul = _field(q)
    elements = np.arange(q)
    if kind == 'Reed-Solomon':  # columns (1, t, .., t^(k-1)) and (0, .., 0, 1)
        columns = [np.ones(q, dtype=int)]
        for _ in range(k - 1):
            columns.append(mul[columns[-1], elements])
    else:  # (1, s, t, s^2 + b s t + c t^2) with a form that has no root, and (0, 0, 0, 1)
        s, t = np.repeat(elements, q), np.tile(elements, q)
        form = next(form for b in elements for c in elements[1:]
                    if np.all((form := add[add[mul[s, s], mul[b, mul[s, t]]], mul[c, mul[t, t]]])[1:]))
        columns = [np.ones(q * q, dtype=int), s, t, form]
    points = np.stack(columns)
    points = np.concatenate([points, np.eye(k, dtype=int)[:, -1:]], 1)[:, :length]

    message = np.arange(num_classes)[None] // q**np.arange(k - 1, -1, -1)[:, None] % q
    rows = np.empty((num_classes, (length - 1) * (q - 1) + values - 1))
    rows[:, :values - 1] = weight**0.5 * _simplex(values)[message[0]]  # the first point is (1, 0, .., 0)
    vertices = _simplex(q)
    for i in range(1, length):
        symbol = functools.reduce(lambda x, y: add[x, y], (mul[points[j, i]][message[j]] for j in range(k)))
        rows[:, values - 1 + (i - 1) * (q - 1):][:, :q - 1] = vertices[symbol]
    return rows


def _kerdock_codes(dim: int) -> Iterator[StructuredCode]:
    size = 4
    while size <= min(dim, 4096):
        yield StructuredCode(f'Kerdock d={size}', size, size * (size + 2), size**-0.5,
                             functools.partial(_kerdock, size))
        size *= 4


def _kerdock(size: int, num_classes: int) -> np.ndarray:
    """First rows of the standard basis, then of the bases (-1)^(Q_a(x, e) + b.(x, e)), a in the field of size / 2.

    Q_a(x, e) = sum_i Tr((a x)^(2^i + 1)) + e Tr(a x), i = 1 .. (t - 1) / 2, is a Kerdock set of quadratic forms on
    GF(2^t) + GF(2), t odd: the difference of any two is non-singular.
    """
    q = size // 2
    _, mul = _field(q)
    t = q.bit_length() - 1
    elements = np.arange(q)
    frobenius = [elements]  # x^(2^i)
    for _ in range(t):
        frobenius.append(mul[frobenius[-1], frobenius[-1]])
    trace = functools.reduce(np.bitwise_xor, frobenius[:t])
    form = functools.reduce(np.bitwise_xor, (trace[mul[elements, power]] for power in frobenius[1:(t + 1) // 2]),
                            np.zeros(q, dtype=int))
    bits = np.arange(size)
    parity = np.array([bin(x).count('1') & 1 for x in range(size)])
    blocks = [np.eye(size), -np.eye(size)]
    for a in elements[:max(0, -(-num_classes // (2 * size)) - 1)]:
        y = mul[a]
        quadratic = np.concatenate([form[y], form[y] ^ trace[y]])  # e = 0, then e = 1
        basis = (-1.0)**(quadratic[None] ^ parity[bits[:, None] & bits]) / size**0.5
        blocks += [basis, -basis]
    return np.concatenate(blocks)[:num_classes]


# --- sharp configurations ---------------------------------------------------------------------------------------------

def _first(build: Callable[[], np.ndarray], num: int) -> np.ndarray:
    return build()[:num]


def _icosahedron() -> np.ndarray:
    golden = (1 + 5**0.5) / 2
    return np.array([np.roll([0, s, t * golden], shift) for shift in range(3) for s in (-1, 1) for t in (-1, 1)])


def _cell_600() -> np.ndarray:
    """Products of the unit quaternions of the 24-cell with the fifth roots of unity along a vertex of it."""
    golden = (1 + 5**0.5) / 2
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T / 2
    rows = [np.eye(4), -np.eye(4), signs]
    even = [(0, 1, 2, 3), (1, 2, 0, 3), (2, 0, 1, 3), (0, 3, 1, 2), (3, 1, 0, 2), (1, 0, 3, 2), (0, 2, 3, 1),
            (2, 3, 0, 1), (3, 0, 2, 1), (1, 3, 2, 0), (3, 2, 1, 0), (2, 1, 3, 0)]
    base = np.array([(a * golden, b, c / golden, 0) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) / 2
    return np.concatenate(rows + [base[:, order] for order in even])


def _e8() -> np.ndarray:
    pairs = np.array([(i, j, s, t) for i in range(8) for j in range(i) for s in (-1, 1) for t in (-1, 1)])
    roots = np.zeros((112, 8))
    roots[np.arange(112), pairs[:, 0]], roots[np.arange(112), pairs[:, 1]] = pairs[:, 2], pairs[:, 3]
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1).T / 2
    return np.concatenate([roots, signs[signs.prod(1) > 0]])


@functools.lru_cache(maxsize=1)
def _leech() -> np.ndarray:
    """The 196560 minimal vectors of the Leech lattice times sqrt(8), as integers."""
    residues = {i * i % 23 for i in range(1, 23)}
    generator = np.array([[(j - i) % 23 not in residues for j in range(23)] for i in range(11)] + [[True] * 23])
    words = (np.arange(4096)[:, None] >> np.arange(12) & 1) @ generator.astype(int) % 2
    words = np.concatenate([words, words.sum(1, keepdims=True) % 2], 1)  # the extended Golay code
    octads = words[words.sum(1) == 8]
    signs = np.array([s for s in range(256) if bin(s).count('1') % 2 == 0])
    signs = 2 - 4 * (signs[:, None] >> np.arange(8) & 1)
    places = octads.nonzero()[1].reshape(-1, 1, 8)
    eights = np.zeros((len(octads), len(signs), 24), dtype=np.int8)
    eights[np.arange(len(octads))[:, None, None], np.arange(len(signs))[:, None], places] = signs
    threes = np.where(np.eye(24, dtype=bool)[:, None], -3, 1) * (1 - 2 * words)
    fours = np.array([s * np.eye(24)[i] + t * np.eye(24)[j]
                      for i in range(24) for j in range(i) for s in (-4, 4) for t in (-4, 4)])
    return np.concatenate([eights.reshape(-1, 24), threes.reshape(-1, 24), fours]).astype(np.int8)


def _derived(rows: np.ndarray, cosine: float) -> np.ndarray:
    """The rows at this cosine to the first one, projected to the subspace orthogonal to it."""
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    near = rows[np.abs(rows @ rows[0] - cosine) < 1e-6]
    return _in_their_span(near - near @ rows[0][:, None] * rows[0])


def _in_their_span(rows: np.ndarray) -> np.ndarray:
    _, size, axes = np.linalg.svd(rows.T @ rows)
    rows = rows @ axes[size > 1e-6 * size[0]].T
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _chain(build: Callable[[], np.ndarray], *cosines: float) -> Callable[[], np.ndarray]:
    return lambda: functools.reduce(_derived, cosines, build())


def _leech_section(*conditions: tuple[tuple[int, ...], int]) -> np.ndarray:
    """Minimal Leech vectors with given inner products (times 8) with given vectors, projected off those."""
    rows = _leech().astype(float)
    fixed = np.array([np.pad(head[:-1], (0, 25 - len(head)), constant_values=head[-1])
                      for head, _ in conditions], float)
    rows = rows[np.all(rows @ fixed.T == [product for _, product in conditions], axis=1)]
    basis = np.linalg.qr(fixed.T)[0]
    return _in_their_span(rows - rows @ basis @ basis.T)


_THREE = ((5, 1), 24)  # minimal vectors whose difference from (5, 1, .., 1), of the next norm, is minimal too
_E8, _L23 = _e8, functools.partial(_leech_section, _THREE)
_SHARP = {  # (d, K): proven optimal spherical codes
    (dim, size): StructuredCode(name, dim, size, cosine, functools.partial(_first, build))  # type: ignore[arg-type]
    for dim, size, name, cosine, build in [
        (3, 12, 'icosahedron', 5**-0.5, _icosahedron),
        (4, 10, 'Petersen code', 1 / 6, _chain(_E8, 1 / 2, 1 / 3, 1 / 4, 1 / 5)),
        (4, 24, '24-cell', 1 / 2, lambda: _kerdock(4, 24)),
        (4, 120, '600-cell', (1 + 5**0.5) / 4, _cell_600),
        (5, 16, 'Clebsch code', 1 / 5, _chain(_E8, 1 / 2, 1 / 3, 1 / 4)),
        (6, 27, 'Schlaefli code', 1 / 4, _chain(_E8, 1 / 2, 1 / 3)),
        (7, 56, '28 equiangular lines', 1 / 3, _chain(_E8, 1 / 2)),
        (8, 240, 'E8', 1 / 2, _E8),
        (21, 112, 'generalised quadrangle', 1 / 9, _chain(_L23, 1 / 5, -1 / 4)),
        (21, 162, 'second neighbours in the McLaughlin graph', 1 / 7, _chain(_L23, 1 / 5, 1 / 6)),
        (22, 100, 'Higman-Sims code', 1 / 11, functools.partial(_leech_section, _THREE, ((4, -4, 0), 16))),
        (22, 275, 'McLaughlin code', 1 / 6, _chain(_L23, 1 / 5)),
        (22, 891, 'second kissing configuration of the Leech lattice', 1 / 4,
         _chain(functools.partial(_leech_section, ((4, 4, 0), 16)), 1 / 3)),
        (23, 552, '276 equiangular lines', 1 / 5, _L23),
        (23, 4600, 'kissing configuration of the Leech lattice', 1 / 3,
         functools.partial(_leech_section, ((4, 4, 0), 16))),
    ]
}
