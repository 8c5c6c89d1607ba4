"""Which class gets which vector of a code: a quadratic assignment of classes to vectors by their similarity."""
import itertools

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from .geometry import checked_code

__all__ = ['assign_classes', 'ASSIGNMENTS']

ASSIGNMENTS = ('similar', 'dissimilar', 'random')
_EXACT = 8  # classes up to which all orders are tried
_FAQ = 1000  # classes up to which SciPy's relaxation gives the start


def assign_classes(similarity: Tensor, code: Tensor, mode: str = 'similar', *, seed: int = 0) -> Tensor:
    r"""Row of the code for each class, so that similar classes get similar vectors.

    Maximises :math:`\sum_{j \ne k} S_{jk} \langle w_{\pi(j)}, w_{\pi(k)} \rangle`. Where the distances of a fixed code
    differ, the order matters: with four classes of CIFAR-10 on a square, putting cat and dog apart costs two points of
    accuracy (section 4 of `Generalized Neural Collapse <https://arxiv.org/abs/2310.05351>`_). All orders are tried for
    K <= 8; above, SciPy's FAQ (K <= 1000) gives a start, which exchanges of pairs improve until none does. On a simplex
    all orders are equal.

    Args:
        similarity (Tensor): S, shape (K, K), for example cosines of centred class means or a confusion matrix. Only
            S + S^T matters; the diagonal does not.
        code (Tensor): Shape (K, d); lengths do not matter.
        mode (str): 'similar', 'dissimilar' (minimise, the worst case) or 'random'. Defaults to 'similar'.
        seed (int): Of the random order and of the start above K = 1000. Defaults to 0.

    Returns:
        Tensor: int64 of shape (K,), a permutation: class k gets row ``order[k]``; ``assignment`` of a
        :class:`SoftmaxCodeHead`.

    Raises:
        ValueError: for an unknown mode, a similarity that is not square, not finite or of another K than the code, and
            for a code as in :func:`max_cosine`.

    Example:
        >>> square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> like = torch.zeros(4, 4); like[0, 2] = like[1, 3] = 1  # 0 and 2 are alike, and 1 and 3
        >>> order = assign_classes(like, square)
        >>> (square[order[0]] @ square[order[2]]).item()  # neighbours now
        0.0
    """
    if mode not in ASSIGNMENTS:
        raise ValueError(f'Expected `mode` to be one of {ASSIGNMENTS}, but got {mode!r}.')
    unit = checked_code(code).double().cpu().numpy()
    num = len(unit)
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1] or len(similarity) != num:
        raise ValueError(f'Expected `similarity` of shape (K, K) with K={num}, the rows of the code, but got '
                         f'{tuple(similarity.shape)}.')
    if not bool(similarity.isfinite().all()):
        raise ValueError(f'Expected finite entries in `similarity`, but {int((~similarity.isfinite()).sum())} are NaN '
                         'or infinite; leave out the classes that have no mean.')
    generator = np.random.default_rng(seed)
    if mode == 'random':
        return torch.from_numpy(generator.permutation(num))
    likeness = similarity.detach().double().cpu().numpy()
    likeness = (likeness + likeness.T) / (2 if mode == 'similar' else -2)
    np.fill_diagonal(likeness, 0)
    cosine = unit @ unit.T
    if num <= _EXACT:
        orders = np.array(list(itertools.permutations(range(num))))
        value = np.einsum('jk,ijk->i', likeness, cosine[orders[:, :, None], orders[:, None]])
        best = value.max()
        return torch.from_numpy(orders[int((value > best - 1e-12 * max(1, abs(best))).argmax())])
    if num <= _FAQ:
        order = optimize.quadratic_assignment(likeness, cosine, options=dict(maximize=True)).col_ind
    else:
        order = generator.permutation(num)
    return torch.from_numpy(_exchange(likeness, cosine, order))


def _exchange(likeness: np.ndarray, cosine: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Exchange the vectors of pairs of classes, many disjoint pairs at a time, until no exchange is a gain."""
    num = len(order)
    placed = cosine[np.ix_(order, order)]
    value, most = float((likeness * placed).sum()), num
    while True:
        product = likeness @ placed
        own = product.diagonal()
        gain = product + product.T - own - own[:, None] - 2 * likeness * (1 - placed)
        partner = gain.argmax(1)
        best = gain[np.arange(num), partner]
        pairs: list[tuple[int, int]] = []
        used = np.zeros(num, dtype=bool)
        for p in np.argsort(-best):
            if best[p] <= 1e-12 * abs(value) / num or len(pairs) == most:
                break
            if not used[p] and not used[partner[p]]:
                pairs.append((int(p), int(partner[p])))
                used[[p, partner[p]]] = True
        if not pairs:
            return order
        while True:  # gains of disjoint exchanges do not simply add up
            left, right = np.array(pairs).T
            new = order.copy()
            new[left], new[right] = order[right], order[left]
            there = cosine[np.ix_(new, new)]
            new_value = float((likeness * there).sum())
            if new_value > value:
                break
            if len(pairs) == 1:  # rounding
                return order
            pairs = pairs[:len(pairs) // 2]
        most = min(num, 2 * len(pairs))
        order, placed, value = new, there, new_value
