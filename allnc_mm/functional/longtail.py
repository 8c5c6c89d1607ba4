"""Class counts of long-tailed data: profiles, the index protocol of LDAM-DRW, groups and sampling distributions."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = [
    'exponential_profile', 'step_profile', 'long_tail_indices', 'group_by_share', 'group_classes',
    'sampling_distribution', 'gini', 'imbalance_factor'
]

Convention = str | Sequence[int] | Sequence[Sequence[int]]


def _check_profile(n_max: float, imb_factor: float, num_classes: int) -> None:
    if not (math.isfinite(n_max) and n_max >= 1):
        raise ValueError(f'Expected `n_max` (images of the largest class) to be at least 1, but got {n_max}.')
    if not (math.isfinite(imb_factor) and imb_factor >= 1):
        raise ValueError(f'Expected `imb_factor` (n_max / n_min) to be a finite number >= 1, but got {imb_factor}; '
                         '1 is balanced, 100 leaves the rarest class a hundredth of the images.')
    if num_classes < 2:
        raise ValueError(f'Expected `num_classes` to be at least 2, but got {num_classes}.')


def _check_non_empty(counts: list[int], n_max: float, imb_factor: float) -> list[int]:
    if min(counts) < 1:
        raise ValueError(f'n_max={n_max} with imb_factor={imb_factor} leaves class {counts.index(min(counts))} without '
                         'images; raise `n_max` or lower `imb_factor`.')
    return counts


def exponential_profile(n_max: float, imb_factor: float, num_classes: int) -> list[int]:
    """Class counts that fall exponentially, as in LDAM-DRW (`Cao et al. 2019 <https://arxiv.org/abs/1906.07413>`_).

    .. math::
        n_k = \\lfloor n_\\mathrm{max} \\, (1/\\mathrm{IF})^{k/(K-1)} \\rfloor

    Args:
        n_max (float): Images of class 0.
        imb_factor (float): n_max / n_min, at least 1.
        num_classes (int): Number of classes K.

    Returns:
        list[int]: K counts, in the order of the classes.

    Raises:
        ValueError: on a setting out of range, or where a class would be left without images.

    Example:
        >>> exponential_profile(5000, 100, 10)
        [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    _check_profile(n_max, imb_factor, num_classes)
    # int() truncates and 1 / imb_factor is computed first: both as in the published protocol, to the last image
    factor = 1 / imb_factor
    counts = [int(n_max * factor**(k / (num_classes - 1.0))) for k in range(num_classes)]
    return _check_non_empty(counts, n_max, imb_factor)


def step_profile(n_max: float, imb_factor: float, num_classes: int) -> list[int]:
    """Class counts with one step: the first half of the classes has n_max images, the second n_max / imb_factor.

    Args:
        n_max (float): Images of each class of the first half.
        imb_factor (float): n_max / n_min, at least 1.
        num_classes (int): Number of classes K, even (the published code silently loses the last of an odd number).

    Returns:
        list[int]: K counts, in the order of the classes.

    Raises:
        ValueError: on an odd K, a setting out of range, or where a class would be left without images.

    Example:
        >>> step_profile(500, 100, 4)
        [500, 500, 5, 5]
    """
    _check_profile(n_max, imb_factor, num_classes)
    if num_classes % 2:
        raise ValueError(f'The step profile halves the classes and needs an even `num_classes`, but got {num_classes}; '
                         'use the exponential profile.')
    half = num_classes // 2
    counts = [int(n_max)] * half + [int(n_max * (1 / imb_factor))] * half
    return _check_non_empty(counts, n_max, imb_factor)


def long_tail_indices(labels: np.ndarray, num_per_class: Sequence[int], seed: int = 0) -> np.ndarray:
    """Choose ``num_per_class[k]`` samples of each class k by the protocol of LDAM-DRW.

    One legacy generator (MT19937, ``numpy.random.RandomState``) is seeded once; for the classes in ascending order all
    positions of the class are shuffled and the first n_k taken. So the sets of one seed are nested: smaller counts
    take a prefix of every class.

    Args:
        labels (np.ndarray): (N,) integer labels of the whole set, in its official order.
        num_per_class (Sequence[int]): K counts; 0 leaves a class out without shifting the later ones.
        seed (int): Seed of the generator. Defaults to 0.

    Returns:
        np.ndarray: (sum n_k,) int64 positions in ``labels``, ordered by class.

    Raises:
        ValueError: where a class has fewer than n_k samples, or a label is outside [0, K).

    Example:
        >>> labels = np.repeat(np.arange(10), 5000)
        >>> long_tail_indices(labels, exponential_profile(5000, 100, 10))[:5].tolist()
        [398, 3833, 4836, 4572, 636]
    """
    labels = np.asarray(labels)
    num_classes = len(num_per_class)
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(f'`num_per_class` has {num_classes} classes, but the labels run from {labels.min()} to '
                         f'{labels.max()}.')
    rng = np.random.RandomState(seed)
    chosen = []
    for k, count in enumerate(num_per_class):
        members = np.flatnonzero(labels == k)
        if not 0 <= count <= len(members):
            raise ValueError(f'Class {k} has {len(members)} samples, but num_per_class[{k}] is {count}.')
        rng.shuffle(members)
        chosen.append(members[:count])
    return np.concatenate(chosen).astype(np.int64)


def group_classes(num_per_class: Sequence[int], convention: Convention = 'A') -> dict[str, list[int]]:
    """Many-, medium- and few-shot classes of a training set.

    Args:
        num_per_class (Sequence[int]): K class counts of the *training* set.
        convention (str | Sequence): One of

            - ``'A'``: many n > 100, medium 20 <= n <= 100, few n < 20;
            - ``'B'``: many n >= 100, medium 20 < n < 100, few n <= 20, as in the evaluation code of OLTR
              (`Liu et al. 2019 <https://arxiv.org/abs/1904.05160>`_);
            - three sizes that sum to K, such as ``(4, 3, 3)``: the first 4 classes are many, the next 3 medium ...;
            - three lists of class indices that hold every class once.

            Defaults to 'A'.

    Returns:
        dict[str, list[int]]: class indices under 'many', 'medium', 'few', ascending; a group may be empty.

    Raises:
        ValueError: on an unknown convention, or groups that do not hold every class exactly once.

    Example:
        >>> group_classes([500, 100, 20, 5])
        {'many': [0], 'medium': [1, 2], 'few': [3]}
        >>> group_classes([500, 100, 20, 5], (2, 1, 1))
        {'many': [0, 1], 'medium': [2], 'few': [3]}
    """
    counts = np.asarray(num_per_class)
    num_classes = len(counts)
    names = ('many', 'medium', 'few')
    if isinstance(convention, str):
        if convention == 'A':
            many, few = counts > 100, counts < 20
        elif convention == 'B':
            many, few = counts >= 100, counts <= 20
        else:
            raise ValueError("Expected `convention` to be 'A', 'B', three group sizes or three lists of classes, but "
                             f'got {convention!r}.')
        masks = (many, ~many & ~few, few)
        return {name: np.flatnonzero(mask).tolist() for name, mask in zip(names, masks)}
    parts: list[Any] = list(convention)
    if len(parts) != 3:
        raise ValueError(f'Expected `convention` to have three groups (many, medium, few), but got {len(parts)}: '
                         f'{convention!r}.')
    if all(isinstance(part, (int, np.integer)) for part in parts):
        if min(parts) < 0 or sum(parts) != num_classes:
            raise ValueError(f'The group sizes {tuple(parts)} must not be negative and must sum to the {num_classes} '
                             f'classes, but sum to {sum(parts)}.')
        edges = np.cumsum([0, *parts])
        return {name: list(range(edges[i], edges[i + 1])) for i, name in enumerate(names)}
    if any(isinstance(part, (int, np.integer, str)) for part in parts):
        raise ValueError('Expected `convention` to be three sizes or three lists of class indices, but got '
                         f'{convention!r}.')
    groups = [sorted(int(k) for k in part) for part in parts]
    if sorted(k for group in groups for k in group) != list(range(num_classes)):
        raise ValueError(f'The groups {groups} must hold each of the classes 0..{num_classes - 1} exactly once.')
    return dict(zip(names, groups))


def imbalance_factor(num_per_class: Sequence[int]) -> float:
    """Samples of the largest class over those of the smallest; infinite where a class has none.

    Args:
        num_per_class (Sequence[int]): K counts, one of them above 0.

    Returns:
        float: At least 1.

    Raises:
        ValueError: on counts that are negative or all zero.

    Example:
        >>> imbalance_factor([500, 100, 5])
        100.0
    """
    counts = _check_counts(num_per_class)
    return float(counts.max() / counts.min()) if counts.min() > 0 else math.inf


def gini(num_per_class: Sequence[int]) -> float:
    """Gini coefficient of the class counts: 0 when balanced, (K-1)/K when one class has all samples.

    Half of the mean absolute difference between two classes, over the mean count; unlike the imbalance factor, it does
    not hang on the two extreme classes alone.

    Args:
        num_per_class (Sequence[int]): K counts, one of them above 0.

    Returns:
        float: In [0, 1).

    Raises:
        ValueError: on counts that are negative or all zero.

    Example:
        >>> gini([5, 5, 5, 5]), gini([20, 0, 0, 0])
        (0.0, 0.75)
    """
    counts = np.sort(_check_counts(num_per_class))
    rank = np.arange(1, len(counts) + 1)
    return float(((2 * rank - len(counts) - 1) * counts).sum() / (len(counts) * counts.sum()))


def _check_counts(num_per_class: Sequence[int]) -> np.ndarray:
    counts = np.asarray(num_per_class, dtype=np.float64)
    if counts.ndim != 1 or not np.isfinite(counts).all() or (counts < 0).any() or not counts.sum() > 0:
        raise ValueError(f'Expected `num_per_class` to be counts >= 0 with one above 0, but got {num_per_class}.')
    return counts


def group_by_share(num_per_class: Sequence[int], thresholds: Sequence[float] = (1.0, 0.2)) -> dict[str, list[int]]:
    r"""Head, middle and tail classes by their share of all samples (in segmentation: of the labelled pixels).

    With K classes, a balanced set gives each the share :math:`1/K`. Class k belongs to the head if
    :math:`K n_k / \sum_j n_j \ge t_1`, to the tail if it is below :math:`t_2`, and else to the middle.

    Args:
        num_per_class (Sequence[int]): K counts.
        thresholds (Sequence[float]): :math:`t_1 \ge t_2 > 0`, in multiples of the balanced share. Defaults to (1, 0.2).

    Returns:
        dict[str, list[int]]: class indices under 'head', 'middle', 'tail', ascending; a group may be empty.

    Raises:
        ValueError: on thresholds that are none, or counts that are negative or all zero.

    Example:
        >>> group_by_share([800, 120, 60, 20])
        {'head': [0], 'middle': [1, 2], 'tail': [3]}
    """
    limits = [float(t) for t in thresholds]
    if len(limits) != 2 or not limits[0] >= limits[1] > 0:
        raise ValueError('Expected `thresholds` to be (head, tail) in multiples of the balanced share 1/K, with head '
                         f'>= tail > 0, such as (1.0, 0.2), but got {thresholds!r}.')
    counts = _check_counts(num_per_class)
    ratio = counts * len(counts) / counts.sum()
    head, tail = ratio >= limits[0], ratio < limits[1]
    masks = dict(head=head, middle=~head & ~tail, tail=tail)
    return {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}


def sampling_distribution(num_per_class: Sequence[int], q: float) -> np.ndarray:
    """Probability of each class when classes are drawn in proportion to n_k^q.

    q = 1 is natural (instance-balanced) sampling, 0.5 the square root, 0 class-balanced, -1 reversed as in BBN.

    Args:
        num_per_class (Sequence[int]): K class counts. A class without images gets probability 0 when q > 0 and is an
            error otherwise.
        q (float): Exponent.

    Returns:
        np.ndarray: (K,) float64, sums to 1.

    Raises:
        ValueError: if q is not finite, a count is negative, no class has images, or q <= 0 and a class has none.

    Example:
        >>> sampling_distribution([75, 25], 1).tolist()
        [0.75, 0.25]
        >>> sampling_distribution([75, 25], -1).tolist()
        [0.25, 0.75]
    """
    counts = np.asarray(num_per_class, dtype=np.float64)
    if not math.isfinite(q):
        raise ValueError(f'Expected `q` to be finite, but got {q}; 1 is natural, 0 class-balanced, -1 reversed.')
    if counts.ndim != 1 or not np.isfinite(counts).all() or (counts < 0).any() or not (counts > 0).any():
        raise ValueError(f'Expected `num_per_class` to be class counts >= 0 with one above 0, but got {num_per_class}.')
    empty = np.flatnonzero(counts == 0)
    if q <= 0 and len(empty):
        raise ValueError(f'q={q} asks for images of every class, but {len(empty)} of {len(counts)} classes have none '
                         f'(first: {empty[:5].tolist()}); use q > 0, or give the data set the right number of classes.')
    # relative to the class of the largest weight: n^q itself overflows for a large |q|
    weight = (counts / (counts.max() if q > 0 else counts.min()))**q
    return weight / weight.sum()
