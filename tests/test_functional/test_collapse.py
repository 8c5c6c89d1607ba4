import math
from itertools import combinations

import numpy as np
import pytest
import torch

from allnc_mm.functional import collapse, geometry
from allnc_mm.functional.collapse import (
    ClassStatistics,
    SecondPass,
    aligned_cosines,
    cdnv,
    collapse_measures,
    equiangularity,
    equinorm,
    etf_distance,
    gnc2,
    group_cosine,
    max_angle_gap,
    minority_collapse_index,
    nc1,
    nc1_balanced,
    nc1_per_class,
    nc1_quotient,
    nearest_angles,
    norm_ratio,
    pairwise_cosines,
    product_duality,
    self_duality,
)
from allnc_mm.functional.geometry import simplex_etf, unit_rows

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
    with pytest.raises(ValueError, match='2 of 3 samples have a feature that is NaN or infinite'):
        stats.update(torch.tensor([[0, math.nan], [0, 0], [-math.inf, 0]]), torch.tensor([0, 1, 2]))
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


def all_measures(features, labels, weight, bias=None, batch=None, **kwargs):
    num_classes = len(weight)
    stats = statistics(features, labels, num_classes, batch)
    units = statistics(unit_rows(features), labels, num_classes, batch)
    second = SecondPass(stats, weight, bias)
    for x, y in zip(features.split(batch or len(features)), labels.split(batch or len(labels))):
        second.update(x, y)
    return collapse_measures(stats, weight, second=second, unit_stats=units, **kwargs)


@pytest.fixture(scope='module')
def sample():
    features, labels = make_data(dim=8)
    weight = torch.randn(len(COUNTS), 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return features, labels, weight, torch.linspace(-1, 1, len(COUNTS), dtype=torch.float64)


def naive_measures(features, labels, weight, bias):
    """Everything from the full matrices, in NumPy."""
    x, y, w = features.numpy(), labels.numpy(), weight.numpy()
    classes = np.unique(y)
    num = len(classes)
    means = np.stack([x[y == k].mean(0) for k in classes])
    m, w, b = means - means.mean(0), w[classes], bias.numpy()[classes]
    out = {}
    covariances = [np.cov(x[y == k].T, bias=True) if (y == k).sum() > 1 else np.zeros((8, 8)) for k in classes]
    inverse = np.linalg.pinv(m.T @ m / num, rcond=1e-12)
    out['nc1_balanced'] = np.trace(np.mean(covariances, 0) @ inverse) / num
    v = np.array([np.trace(c) for c in covariances])
    pairs = list(combinations(range(num), 2))
    values = [(v[i] + v[j]) / 2 / np.sum((m[i] - m[j])**2) for i, j in pairs]
    out.update(cdnv_mean=np.mean(values), cdnv_median=np.median(values), cdnv_max=np.max(values))
    several = np.array([(y == k).sum() > 1 for k in classes])
    out['nc1_class_max'] = (v / (np.sum(m**2) / num))[several].max()

    simplex = (np.eye(num) - 1 / num) / np.sqrt(num - 1)

    def distance(gram):
        return np.linalg.norm(gram / np.linalg.norm(gram) - simplex)

    def angles(rows, index):
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        found = [np.degrees(np.arccos(rows[i] @ rows[j])) for i, j in index]
        return dict(min=np.min(found), mean=np.mean(found), std=np.std(found))

    for what, rows in (('means', m), ('classifier', w), ('classifier_centred', w - w.mean(0))):
        out[f'nc2_etf_distance_{what}'] = distance(rows @ rows.T)
        for name, value in angles(rows, pairs).items():
            out[f'angle_{name}_{what}'] = value
    # classes 0, 1 | 2, 4 | 5 of the six, the fourth of which is absent
    for name, value in angles(w, [(0, 2), (0, 3), (1, 2), (1, 3)]).items():
        out[f'angle_{name}_classifier_many_medium'] = value
    for name, value in angles(m, [(2, 3)]).items():
        out[f'angle_{name}_means_medium'] = value

    out['nc3_product'] = distance(w @ m.T)
    counts = np.array([(y == k).sum() for k in classes])
    sample_centred = means - counts @ means / counts.sum()
    out['nc3_squared_sample'] = np.sum((w / np.linalg.norm(w) - sample_centred / np.linalg.norm(sample_centred))**2)
    nearest = np.array([np.argmin(np.sum((means - row)**2, 1)) for row in x])
    predicted = np.argmax(x @ w.T + b, 1)
    place = np.searchsorted(classes, y)
    for name, hits in (('nc4_agreement', nearest == predicted), ('ncc_accuracy', nearest == place)):
        out[name] = hits.mean()
        out[f'{name}_balanced'] = np.mean([hits[place == k].mean() for k in range(num)])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    directions = np.stack([unit[y == k].mean(0) for k in classes])
    out['gnc1'] = naive_nc1(torch.from_numpy(unit), labels)[0]
    for name, rows in (('gnc3', directions), ('gnc3_centred', directions - directions.mean(0))):
        out[name] = np.mean([1 - p @ q / np.linalg.norm(p) / np.linalg.norm(q) for p, q in zip(w, rows)])
    norms = np.linalg.norm(weight.numpy(), axis=1)
    out['norm_ratio'] = norms[:3].mean() / norms[3:].mean()
    return out


@pytest.mark.parametrize('block', [2, 512])
def test_measures_equal_numpy_on_the_full_matrices(sample, monkeypatch, block):
    monkeypatch.setattr(collapse, 'BLOCK', block)
    groups = dict(many=[0, 1], medium=[2, 4], few=[5, 3])
    measures, reasons = all_measures(*sample, groups=groups, tail=[3, 4, 5], batch=31)
    for name, value in naive_measures(*sample).items():
        assert measures[name] == pytest.approx(value, rel=1e-8), name
    assert set(reasons) == {'nc1_class_few', 'angle_min_means_few', 'angle_mean_means_few', 'angle_std_means_few',
                            'angle_min_classifier_few', 'angle_mean_classifier_few', 'angle_std_classifier_few'}
    assert all(math.isnan(measures[name]) for name in reasons)  # the only present class of the group has one sample
    assert measures['nc4_disagreement'] == 1 - measures['nc4_agreement']
    assert measures['num_present'] == 5 and measures['num_samples'] == sum(COUNTS) and measures['etf_feasible'] == 1


def test_second_pass_on_other_samples_and_its_merge(sample):
    features, labels, weight, bias = sample
    stats = statistics(features, labels)
    test, wanted = make_data(seed=1)
    whole, left, right = (SecondPass(stats, weight, bias) for _ in range(3))
    absent = torch.full((4, ), 3)  # a class without training samples is skipped
    whole.update(torch.cat([test, test[:4]]), torch.cat([wanted, absent]))
    left.update(test[:100], wanted[:100])
    right.update(test[100:], wanted[100:])
    for state, other, total in zip(left.state(), right.state(), whole.state()):
        torch.testing.assert_close(state + other, total)
    assert whole.counts.tolist() == COUNTS
    nearest = torch.cdist(test, stats.class_means().nan_to_num(math.inf)).nan_to_num(math.inf).argmin(1)
    means = stats.class_means()[[0, 1, 2, 4, 5]]
    nearest = torch.tensor([0, 1, 2, 4, 5])[torch.cdist(test, means).argmin(1)]
    assert whole.correct.sum() == (nearest == wanted).sum()
    assert SecondPass(stats).agreements is None and len(SecondPass(stats).state()) == 3


def test_every_measure_is_invariant(sample):
    features, labels, weight, bias = sample
    expected, _ = all_measures(features, labels, weight)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    rotation = torch.from_numpy(np.linalg.qr(np.random.RandomState(0).randn(8, 8))[0])
    rotated = features @ rotation, labels, weight @ rotation
    shift_free = ('gnc', 'nc4', 'num')  # directions, and classifier logits, change under a shift of the features
    for case, args in (('order', (features[order], labels[order], weight)), ('rotation', rotated),
                       ('scale', (3 * features, labels, weight)), ('shift', (features + 5, labels, weight))):
        found, _ = all_measures(*args, batch=29)
        for name, value in expected.items():
            if case != 'shift' or not name.startswith(shift_free):
                assert found[name] == pytest.approx(value, rel=1e-8, abs=1e-10, nan_ok=True), (case, name)


def test_all_measures_at_the_simplex():
    means = simplex_etf(6, 9)
    labels = torch.repeat_interleave(torch.arange(6), torch.tensor([50, 20, 9, 5, 2, 2]))
    measures, reasons = all_measures(means[labels], labels, 2.5 * means, groups=dict(a=[0, 1, 2], b=[3, 4, 5]))
    assert not reasons
    optimum = math.degrees(math.acos(-1 / 5))
    ideal = dict(num_samples=88, num_present=6, etf_feasible=1, nc3_cosine_mean=1, nc3_cosine_min=1, norm_ratio=1,
                 nc3_cosine_mean_centred=1, nc3_cosine_min_centred=1, nc4_agreement=1, nc4_agreement_balanced=1,
                 ncc_accuracy=1, ncc_accuracy_balanced=1, gnc2=6 / 5, tail_cosine_classifier=-.2, tail_cosine_means=-.2)
    for name, value in measures.items():
        if name.startswith('cosine_mean'):
            value += .2
        elif name.startswith(('angle_min', 'angle_mean')):
            value = (value - optimum) / 1e3
        elif name.startswith('nc3_cosine'):
            value -= 1
        elif name == 'nc3_squared_sample':  # the mean of the samples is not that of the classes
            assert value > .01
            continue
        else:
            value -= ideal.get(name, 0)
        assert value == pytest.approx(0, abs=1e-12), name


def test_cdnv_of_equal_and_of_close_means():
    far = 1e3 * torch.eye(4, dtype=torch.float64)[:3]
    centres = torch.stack([far[0], far[0], far[1], far[1] + torch.tensor([0, 0, 0, 1e-3]), far[2]])
    noise = torch.tensor([[0, 0, 0, 1.], [0, 0, 0, -1.]], dtype=torch.float64)
    features = (centres[:, None] + noise).flatten(0, 1)
    result = cdnv(statistics(features, torch.arange(5).repeat_interleave(2), 5))
    assert result.skipped == 1
    assert result.max == pytest.approx(1 / 1e-6, rel=1e-6)  # the squared distance 1e-6 beside lengths of 1e6
    assert result.median == pytest.approx(1 / 2e6, rel=1e-5)
    equal = cdnv(statistics(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]), 2))
    assert equal.skipped == 1 and math.isnan(equal.mean) and math.isnan(equal.median) and math.isnan(equal.max)


def test_per_class_and_single_samples():
    features, labels = make_data()
    stats = statistics(features, labels)
    per_class = nc1_per_class(stats)
    assert per_class.isnan().tolist() == [n < 2 for n in COUNTS]
    between = float((stats.class_means() - stats.class_means().nanmean(0)).nan_to_num(0).square().sum() / 5)
    assert float(per_class[0]) == pytest.approx(float(stats.traces[0]) / COUNTS[0] / between)


def test_nearest_angles_and_norm_ratio(monkeypatch):
    vectors = torch.tensor([[1., 0], [1, 1], [0, 2], [float('nan'), 0], [0, 0], [-4, 0]])
    for block in (2, 512):
        monkeypatch.setattr(collapse, 'BLOCK', block)
        angles = nearest_angles(vectors, center=False)
        torch.testing.assert_close(angles, torch.tensor([45, 45, 45, math.nan, math.nan, 90], dtype=torch.float64),
                                   equal_nan=True)
    assert nearest_angles(vectors[:1]).isnan().all()
    assert norm_ratio(vectors, [2, 3, 5]) == pytest.approx((1 + math.sqrt(2) + 0) / 3 / 3)
    assert math.isnan(norm_ratio(vectors, [4])) and math.isnan(norm_ratio(vectors, range(6)))


def test_etf_distances():
    for num_classes, dim in ((5, 4), (5, 9), (40, 60)):
        frame = simplex_etf(num_classes, dim)
        assert etf_distance(3 * frame + 1) == pytest.approx(0, abs=1e-12)
        assert product_duality(frame, 2 * frame + 1) == pytest.approx(0, abs=1e-12)
        assert product_duality(-frame, frame) == pytest.approx(2)
    # K > d + 1 has a floor: of rank d at best, sqrt(2 - 2 sqrt(d / (K - 1)))
    polygon = torch.tensor([[math.cos(a), math.sin(a)] for a in np.arange(6) * math.pi / 3])
    assert etf_distance(polygon) == pytest.approx(math.sqrt(2 - 2 * math.sqrt(2 / 5)), abs=1e-6)
    assert math.isnan(etf_distance(torch.ones(3, 2))) and math.isnan(etf_distance(torch.ones(1, 2)))
    measures, reasons = collapse_measures(statistics(polygon, torch.arange(6)), polygon)
    assert measures['etf_feasible'] == 0 and math.isnan(measures['nc2_etf_distance_classifier'])
    assert reasons['nc3_product'] == 'no simplex ETF of 6 classes exists in 2 dimensions; see gnc2'


def test_gnc2_of_known_codes():
    octagon = torch.tensor([[math.cos(a), math.sin(a)] for a in np.arange(8) * math.pi / 4], dtype=torch.float64)
    assert gnc2(5 * octagon) == pytest.approx(.29289322, abs=1e-8)
    assert gnc2(simplex_etf(7, 10)) == pytest.approx(7 / 6)
    cross = torch.cat([torch.eye(3), -torch.eye(3)])
    assert gnc2(cross) == pytest.approx(1)
    # half of a square and a rattler between: its own direction is no certificate, a class mean may be
    code = torch.tensor([[1., 0], [0, 1], [-1, 0]])
    better = torch.tensor([[1., 0], [0, 1], [-1, 0]])
    assert gnc2(code, better) >= gnc2(code) == pytest.approx(1)
    assert math.isnan(gnc2(torch.zeros(3, 2)))


def test_undefined_measures_have_reasons():
    bare, why = collapse_measures(statistics(torch.eye(3), torch.arange(3), 3, scatter=False))
    assert why['nc1'] == 'no scatter matrix was accumulated' and bare['nc1_quotient'] == 0
    assert why['nc3'] == 'no classifier vectors' and why['gnc1'] == 'no statistics of normalised features'
    assert why['nc4_agreement'] == 'no classifier vectors' and 'second pass' in why['ncc_accuracy']
    empty, empty_why = collapse_measures(ClassStatistics(3, 3))
    assert set(empty) == set(bare)
    assert empty_why['nc1'] == '0 of 3 classes have samples, and two are needed' and len(empty_why) == len(empty) - 3
    labels = torch.tensor([0, 0, 1, 1])
    stats = statistics(torch.tensor([[1., 0], [-1, 0], [0, 1], [0, -1]]), labels, 2)  # equal means
    measures, reasons = collapse_measures(stats, torch.zeros(2, 2), second=SecondPass(stats), num_per_class=[5, 5])
    assert reasons['nc1'] == reasons['cdnv_mean'] == 'all class means are equal'
    assert reasons['nc3'] == 'all class means are equal, or the classifier is zero'
    assert reasons['nc4_agreement'] == 'the second pass had no classifier vectors'
    assert measures['collapsed_means'] == measures['collapsed_classifier'] == 2 and measures['cdnv_skipped'] == 1
    assert math.isnan(nc1_balanced(SecondPass(stats)))
    assert set(reasons) == {name for name, value in measures.items() if math.isnan(value)}
    assert 'the tail has 1 class' in collapse_measures(stats, torch.eye(2), tail=[1])[1]['mci']
    with pytest.raises(ValueError, match=r'same shape \(K, d\)'):
        collapse_measures(stats, torch.ones(2, 3))
    with pytest.raises(ValueError, match='no class has samples yet'):
        SecondPass(ClassStatistics(2, 2))


def test_no_matrix_of_all_pairs(monkeypatch):
    num_classes, dim = 200, 6
    features = torch.randn(2 * num_classes, dim, generator=torch.Generator().manual_seed(0))
    stats = statistics(features, torch.arange(num_classes).repeat(2), num_classes)
    weight = features[:num_classes].double()
    expected, _ = collapse_measures(stats, weight, unit_stats=stats)
    monkeypatch.setattr(collapse, 'BLOCK', 20)
    monkeypatch.setattr(geometry, 'BLOCK', 20)
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        measures, _ = collapse_measures(stats, weight, unit_stats=stats)
    largest = max(event.self_cpu_memory_usage for event in profile.function_events)
    # the float32 values of all pairs, for the median: a quarter of K x K in float64
    assert 1e4 < largest < 8 * num_classes**2 / 3.9
    for name, value in expected.items():
        assert measures[name] == pytest.approx(value, rel=1e-5 if name == 'cdnv_median' else 1e-9, nan_ok=True), name
