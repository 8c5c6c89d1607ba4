import doctest
import hashlib

import numpy as np
import pytest

from allnc_mm.functional import longtail
from allnc_mm.functional.longtail import (
    exponential_profile,
    group_by_share,
    group_classes,
    long_tail_indices,
    sampling_distribution,
    step_profile,
)

TOTALS = [  # profile, n_max, K, {ratio: images}
    (exponential_profile, 5000, 10, {10: 20431, 20: 17023, 50: 13996, 100: 12406, 200: 11203}),
    (exponential_profile, 500, 100, {10: 19573, 20: 15907, 50: 12608, 100: 10847, 200: 9502}),
    (step_profile, 5000, 10, {10: 27500, 20: 26250, 50: 25500, 100: 25250, 200: 25125}),
    (step_profile, 500, 100, {10: 27500, 20: 26250, 50: 25500, 100: 25250, 200: 25100}),
]


def test_examples():
    result = doctest.testmod(longtail)
    assert result.attempted >= 8 and result.failed == 0


@pytest.mark.parametrize('profile, n_max, num_classes, totals', TOTALS)
def test_published_totals(profile, n_max, num_classes, totals):
    assert {ratio: sum(profile(n_max, ratio, num_classes)) for ratio in totals} == totals


def test_published_counts():
    assert exponential_profile(5000, 100, 10) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    cifar100 = exponential_profile(500, 100, 100)
    assert cifar100[:4] == [500, 477, 455, 434] and cifar100[-6:] == [6, 6, 5, 5, 5, 5]
    assert min(exponential_profile(500, 200, 100)) == 2
    assert exponential_profile(500, 1, 10) == [500] * 10


@pytest.mark.parametrize('args, message', [
    ((5000, 100, 9), 'even `num_classes`, but got 9'),
    ((5000, 0.5, 10), '`imb_factor` .* but got 0.5'),
    ((5000, float('nan'), 10), '`imb_factor`'),
    ((0, 10, 10), '`n_max` .* but got 0'),
    ((5, 100, 10), 'leaves class 5 without images; raise `n_max`'),
    ((5, 100, 1), '`num_classes` to be at least 2'),
])
def test_profile_errors(args, message):
    with pytest.raises(ValueError, match=message):
        step_profile(*args)


def test_exponential_profile_refuses_an_empty_class():
    with pytest.raises(ValueError, match='leaves class 7 without images'):
        exponential_profile(5, 10, 10)  # 5 * .1^(7/9) = .83


@pytest.mark.parametrize('num_classes, n_max, total, digest, first, last', [
    (10, 5000, 12406, 'f5a6ab138b23b845', [398, 3833, 4836, 4572, 636], [47204, 48816, 47206, 47507, 46926]),
    (100, 500, 10847, 'b56cfff7465dadc1', [90, 254, 283], [49848, 49653, 49863, 49861, 49799]),
])
def test_protocol_fixture(num_classes, n_max, total, digest, first, last):
    labels = np.repeat(np.arange(num_classes), n_max)
    counts = exponential_profile(n_max, 100, num_classes)
    chosen = long_tail_indices(labels, counts)
    assert chosen.dtype == np.int64 and len(chosen) == total
    assert hashlib.sha256(chosen.astype('<i8').tobytes()).hexdigest().startswith(digest)
    assert chosen[:len(first)].tolist() == first
    start = total - counts[-1]
    assert chosen[start:start + len(last)].tolist() == last


def test_protocol_equals_the_published_code():
    """The global generator and the loop of imbalance_cifar.py, on unsorted labels."""
    labels = np.random.RandomState(3).permutation(np.repeat(np.arange(5), 40))
    counts = [40, 20, 0, 7, 2]
    state = np.random.get_state()
    np.random.seed(11)
    expected = []
    for k in np.unique(labels):
        idx = np.where(labels == k)[0]
        np.random.shuffle(idx)
        expected.extend(idx[:counts[k]])
    np.random.set_state(state)
    chosen = long_tail_indices(labels, counts, seed=11)
    assert chosen.tolist() == expected
    assert not np.array_equal(chosen, long_tail_indices(labels, counts, seed=12))


def test_sets_are_nested():
    labels = np.repeat(np.arange(10), 500)
    sets = [set(long_tail_indices(labels, exponential_profile(500, ratio, 10)).tolist()) for ratio in (1, 10, 50, 100)]
    assert all(small < large for large, small in zip(sets, sets[1:]))


def test_indices_errors():
    with pytest.raises(ValueError, match=r'Class 1 has 2 samples, but num_per_class\[1\] is 3'):
        long_tail_indices(np.array([0, 0, 1, 1]), [1, 3])
    with pytest.raises(ValueError, match='has 2 classes, but the labels run from 0 to 2'):
        long_tail_indices(np.array([0, 1, 2]), [1, 1])


@pytest.mark.parametrize('ratio, convention, sizes', [(100, 'A', (35, 35, 30)), (100, 'B', (35, 34, 31)),
                                                      (50, 'A', (41, 41, 18))])
def test_groups_of_cifar100(ratio, convention, sizes):
    groups = group_classes(exponential_profile(500, ratio, 100), convention)
    assert tuple(len(groups[name]) for name in ('many', 'medium', 'few')) == sizes
    assert sum(groups.values(), []) == list(range(100))


def test_groups_by_index():
    counts = exponential_profile(5000, 100, 10)
    assert group_classes(counts, 'A')['few'] == []
    assert group_classes(counts, (3, 4, 3)) == {'many': [0, 1, 2], 'medium': [3, 4, 5, 6], 'few': [7, 8, 9]}
    assert group_classes([1, 2, 3], [[2], [1], [0]]) == {'many': [2], 'medium': [1], 'few': [0]}
    assert group_classes([1, 2, 3], [[2, 0], [], [1]]) == {'many': [0, 2], 'medium': [], 'few': [1]}


@pytest.mark.parametrize('convention, message', [
    ('C', "'A', 'B', .* but got 'C'"),
    ((4, 3), 'three groups .* but got 2'),
    ((4, 3, 2), 'sum to the 10 classes, but sum to 9'),
    ((12, -4, 2), 'must not be negative'),
    ([[0, 1], [2, 3], [4, 5, 6, 7, 8, 8]], r'each of the classes 0\.\.9 exactly once'),
    ([[0], 3, 3], 'three sizes or three lists'),
])
def test_group_errors(convention, message):
    with pytest.raises(ValueError, match=message):
        group_classes([1] * 10, convention)


def test_sampling_distribution():
    counts = [500, 50, 5]
    for q in (1, 0.5, 0, -1, 2.5):
        naive = [n**q for n in counts]
        prior = sampling_distribution(counts, q)
        assert prior.dtype == np.float64
        np.testing.assert_allclose(prior, np.array(naive) / sum(naive), rtol=1e-13)
    np.testing.assert_allclose(sampling_distribution(counts, 300), [1, 0, 0], atol=1e-100)  # 500^300 overflows
    assert sampling_distribution([4, 0, 4], 0.5).tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize('counts, q, message', [
    ([1, 2], float('inf'), '`q` to be finite, but got inf'),
    ([1, 2], float('nan'), '`q` to be finite, but got nan'),
    ([1, -2], 1, 'class counts >= 0'),
    ([0, 0], 1, 'one above 0'),
    ([3, 0, 4, 0], 0, r'q=0 .* 2 of 4 classes have none \(first: \[1, 3\]\); use q > 0'),
])
def test_sampling_distribution_errors(counts, q, message):
    with pytest.raises(ValueError, match=message):
        sampling_distribution(counts, q)


def test_group_by_share_is_strict_on_one_side_of_each_threshold():
    # shares of 1000 in 4 classes: a balanced class has 250, a fifth of it is 50
    assert group_by_share([250, 650, 50, 50]) == {'head': [0, 1], 'middle': [2, 3], 'tail': []}
    assert group_by_share([249, 651, 51, 49]) == {'head': [1], 'middle': [0, 2], 'tail': [3]}
    assert group_by_share([1, 0], (2, 0.1)) == {'head': [0], 'middle': [], 'tail': [1]}
    scaled = group_by_share([n * 10**12 for n in (249, 651, 51, 49)])
    assert scaled == group_by_share([249, 651, 51, 49])


@pytest.mark.parametrize('counts, thresholds, message', [
    ([1, 2], (0.1, 0.2), r'head >= tail > 0.* but got \(0.1, 0.2\)'),
    ([1, 2], (1, 0), 'tail > 0'),
    ([1, 2], (1, ), 'multiples of the balanced share'),
    ([1, -2], (1, 0.2), 'counts >= 0'),
    ([0, 0], (1, 0.2), 'one above 0'),
])
def test_group_by_share_errors(counts, thresholds, message):
    with pytest.raises(ValueError, match=message):
        group_by_share(counts, thresholds)
