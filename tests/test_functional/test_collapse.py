import math
from itertools import combinations

import numpy as np
import pytest
import torch

from allnc_mm.functional.collapse import (
    ClassStatistics,
    aligned_cosines,
    equiangularity,
    equinorm,
    group_cosine,
    max_angle_gap,
    minority_collapse_index,
    nc1,
    nc1_quotient,
    pairwise_cosines,
    self_duality,
)

COUNTS = [200, 60, 20, 0, 7, 1]


def make_data(seed=0, dim=8, noise=1., counts=COUNTS):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    means = 10 + torch.randn(len(counts), dim, generator=generator, dtype=torch.float64)
    noise = noise * torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
    return means[labels] + noise, labels


def statistics(features, labels, num_classes=6, batch=None, **kwargs):
    stats = ClassStatistics(num_classes, features.size(1), **kwargs)
    for x, y in zip(features.split(batch or len(features)), labels.split(batch or len(labels))):
        stats.update(x, y)
    return stats


def assert_same(left, right, rtol=1e-10):
    for name, value in left.state_dict().items():
        torch.testing.assert_close(value, right.state_dict()[name], rtol=rtol, atol=rtol)


def etf(num_classes, dim):
    basis = np.linalg.qr(np.random.RandomState(0).randn(dim, num_classes))[0].T
    return torch.from_numpy((basis - basis.mean(0)) * math.sqrt(num_classes / (num_classes - 1)))


def naive_nc1(features, labels):
    x, y = features.numpy(), labels.numpy()
    classes = np.unique(y)
    means = np.stack([x[y == k].mean(0) for k in classes])
    within = sum(np.outer(row - means[classes == k][0], row - means[classes == k][0]) for row, k in zip(x, y)) / len(x)
    centred = means - means.mean(0)
    between = centred.T @ centred / len(classes)
    return (np.trace(within @ np.linalg.pinv(between, rcond=1e-12)) / len(classes),
            np.trace(within) / np.trace(between))


def test_statistics_equal_the_definition():
    features, labels = make_data()
    stats = statistics(features, labels, batch=17)
    scatter = torch.zeros(8, 8, dtype=torch.float64)
    for k, count in enumerate(COUNTS):
        rows = features[labels == k]
        assert stats.counts[k] == count
        if count == 0:
            assert stats.class_means()[k].isnan().all()
            continue
        torch.testing.assert_close(stats.means[k], rows.mean(0))
        torch.testing.assert_close(stats.traces[k], (rows - rows.mean(0)).square().sum())
        scatter += (rows - rows.mean(0)).T @ (rows - rows.mean(0))
    torch.testing.assert_close(stats.scatter, scatter)


@pytest.mark.parametrize('dim', [3, 8, 40])
def test_nc1_equals_the_pseudo_inverse(dim):
    features, labels = make_data(dim=dim)
    stats = statistics(features, labels, batch=50)
    full, quotient = naive_nc1(features, labels)
    assert nc1(stats) == pytest.approx(full, rel=1e-9)
    assert nc1_quotient(stats) == pytest.approx(quotient, rel=1e-9)
    assert nc1_quotient(statistics(features, labels, scatter=False)) == pytest.approx(quotient, rel=1e-9)


def test_statistics_do_not_depend_on_order_or_split():
    features, labels = make_data()
    whole = statistics(features, labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    assert_same(statistics(features[order], labels[order], batch=13), whole)

    parts = [statistics(x, y) for x, y in zip(features.split(100), labels.split(100))]
    left = ClassStatistics.from_state_dict(parts[0].state_dict())
    for part in parts[1:]:
        left.merge(part)
    right = ClassStatistics.from_state_dict(parts[-2].state_dict())
    right.merge(parts[-1])
    first = ClassStatistics.from_state_dict(parts[0].state_dict())
    first.merge(right)
    assert len(parts) == 3
    assert_same(left, whole)
    assert_same(first, whole)
    assert_same(parts[0], statistics(features[:100], labels[:100]))  # the copy left its source alone


def test_collapsed_features_far_from_the_origin():
    # one-pass raw moments are wrong by orders of magnitude here in float32
    features, labels = make_data(noise=1e-4)
    left, right = statistics(features[:150], labels[:150], batch=20), statistics(features[150:], labels[150:], batch=20)
    left.merge(right)
    x, y = features.numpy(), labels.numpy()
    exact = sum(((x[y == k] - x[y == k].mean(0))**2).sum() for k in np.unique(y))
    assert float(left.traces.sum()) == pytest.approx(exact, rel=1e-9)


def test_update_in_low_precision_and_empty():
    stats = ClassStatistics(3, 2)
    stats.update(torch.ones(4, 2, dtype=torch.bfloat16), torch.tensor([1, 1, 1, 1], dtype=torch.int32))
    stats.update(torch.ones(0, 2), torch.zeros(0, dtype=torch.int64))
    assert stats.means.dtype == torch.float64 and stats.counts.tolist() == [0, 4, 0]
    assert math.isnan(nc1(stats)) and math.isnan(nc1_quotient(stats))
    assert math.isnan(nc1(ClassStatistics(3, 2))) and math.isnan(nc1_quotient(ClassStatistics(3, 2)))


def test_exact_collapse():
    means = etf(6, 9)
    labels = torch.repeat_interleave(torch.arange(6), torch.tensor([50, 20, 9, 5, 2, 1]))
    stats = statistics(means[labels] + 3, labels, batch=10)
    found = stats.class_means()
    assert nc1(stats) == pytest.approx(0, abs=1e-25)
    assert equinorm(found) == pytest.approx(0, abs=1e-12)
    assert equiangularity(found) == pytest.approx(0, abs=1e-12)
    assert max_angle_gap(found) == pytest.approx(0, abs=1e-12)
    assert self_duality(2.5 * means, found) == pytest.approx(0, abs=1e-12)
    assert self_duality(-means, found) == pytest.approx(2)
    torch.testing.assert_close(aligned_cosines(means, found), torch.ones(6, dtype=torch.float64))
    assert minority_collapse_index(means, [50, 20, 9, 5, 2, 1]) == pytest.approx(0, abs=1e-12)


def measures(features, labels, weight):
    stats = statistics(features, labels)
    means = stats.class_means()
    return np.array([
        nc1(stats), nc1_quotient(stats), equinorm(means), equiangularity(means), max_angle_gap(means),
        equiangularity(weight, center=False), self_duality(weight, means), self_duality(weight, means, True),
        float(aligned_cosines(weight, means).nanmean())
    ])


def test_invariances():
    features, labels = make_data()
    weight = torch.randn(len(COUNTS), 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected = measures(features, labels, weight)
    assert np.isfinite(expected).all()
    rotation = torch.from_numpy(np.linalg.qr(np.random.RandomState(0).randn(8, 8))[0])
    for x, w in ((features + 5, weight), (7.5 * features, weight), (features @ rotation, weight @ rotation)):
        np.testing.assert_allclose(measures(x, labels, w), expected, rtol=1e-8)


@pytest.mark.parametrize('center', [True, False])
def test_cosines_and_angles_equal_naive_loops(center):
    vectors = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vectors[2] = float('nan')
    kept = [k for k in range(7) if k != 2]
    rows = vectors.numpy()[kept]
    if center:
        rows = rows - rows.mean(0)
    cosines = pairwise_cosines(vectors, center)
    assert cosines[2].isnan().all() and cosines[:, 2].isnan().all()
    pairs = []
    for (i, k), (j, m) in combinations(enumerate(kept), 2):
        pairs.append(rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j]))
        assert float(cosines[k, m]) == pytest.approx(pairs[-1], abs=1e-12) == float(cosines[m, k])
    norms = [np.linalg.norm(row) for row in rows]
    assert equiangularity(vectors, center) == pytest.approx(np.std(pairs))
    assert max_angle_gap(vectors, center) == pytest.approx(np.mean([abs(c + 1 / 5) for c in pairs]))
    assert equinorm(vectors, center) == pytest.approx(np.std(norms) / np.mean(norms))
    assert group_cosine(vectors, [0, 2, 4, 6], center) == pytest.approx(
        np.mean([float(cosines[i, j]) for i, j in ((0, 4), (0, 6), (4, 6))]))


def test_self_duality_equals_naive():
    weight, means = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    means[1] = float('nan')
    w, m = np.delete(weight.numpy(), 1, 0), np.delete(means.numpy(), 1, 0)
    m = m - m.mean(0)
    assert self_duality(weight, means) == pytest.approx(
        np.linalg.norm(w / np.linalg.norm(w) - m / np.linalg.norm(m)))
    cosines = aligned_cosines(weight, means)
    assert cosines[1].isnan()
    np.testing.assert_allclose(np.delete(cosines.numpy(), 1),
                               [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(w, m)])


def test_minority_collapse():
    # SELI geometry (5 majority, 5 minority classes, ratio 100): W W^T = (Z Z^T)^(1/2) with the simplex label matrix Z
    counts = np.array([100] * 5 + [1] * 5)
    columns = np.eye(10) - .1
    values, vectors = np.linalg.eigh((columns * counts) @ columns.T)
    weight = torch.from_numpy(vectors * np.clip(values, 0, None)**.25)
    assert group_cosine(weight, range(5, 10)) == pytest.approx(.338026, abs=1e-6)
    assert minority_collapse_index(weight, counts) == pytest.approx(.404223, abs=1e-6)
    assert minority_collapse_index(weight, counts, tail=[5, 6, 7, 8, 9]) == minority_collapse_index(weight, counts)
    assert minority_collapse_index(torch.ones(10, 3), counts) == pytest.approx(1)
    assert math.isnan(minority_collapse_index(weight, counts, tail=[9]))


def test_undefined_is_nan():
    equal = torch.full((4, 3), 7.3)
    one = torch.tensor([[1., 2.]])
    for measure in (equiangularity, max_angle_gap, equinorm):
        assert math.isnan(measure(equal)) and math.isnan(measure(one)) and math.isnan(measure(torch.zeros(0, 2)))
    assert equiangularity(torch.tensor([[1., 0], [0, 1]])) == 0  # one pair
    assert math.isnan(self_duality(torch.ones(4, 3), equal.new_full((4, 3), float('nan'))))
    labels = torch.tensor([0, 0, 1, 1])
    stats = statistics(torch.tensor([[1., 0], [-1, 0], [0, 1], [0, -1]]), labels, 2)  # equal means, real scatter
    assert math.isnan(nc1(stats)) and math.isnan(nc1_quotient(stats))
    collapsed = torch.tensor([[1., 0], [0., 1], [0, 0]])
    cosines = pairwise_cosines(collapsed, center=False)
    assert cosines[2].isnan().all() and cosines[0, 1] == 0


def test_bad_input():
    stats = ClassStatistics(3, 2)
    with pytest.raises(ValueError, match=r'features must be \(N, 2\)'):
        stats.update(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r'labels must lie in \[0, 3\), but got -1 to 3'):
        stats.update(torch.ones(2, 2), torch.tensor([3, -1]))
    with pytest.raises(ValueError, match='do not merge'):
        stats.merge(ClassStatistics(3, 2, scatter=False))
    with pytest.raises(ValueError, match='use nc1_quotient'):
        nc1(ClassStatistics(3, 2, scatter=False))
    with pytest.raises(ValueError, match='must be positive'):
        ClassStatistics(0, 2)
    with pytest.raises(ValueError, match=r'shape \(K, d\)'):
        pairwise_cosines(torch.ones(3))
    with pytest.raises(ValueError, match='same shape'):
        self_duality(torch.ones(3, 2), torch.ones(3, 4))
    with pytest.raises(ValueError, match='one count for each of the 3 classes'):
        minority_collapse_index(torch.ones(3, 2), [5, 1])
