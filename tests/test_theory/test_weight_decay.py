"""Weight decay: the sharp threshold; and SELI, its limit."""
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from allnc_mm.theory import collapse_count, collapse_ratio, seli, weight_decay_ufm


def margin_problem(counts, dim, seed=0):
    """Least (|W|^2 + |H|^2) / 2 with all margins at least one, by SLSQP on W and H."""
    labels = np.repeat(np.arange(len(counts)), counts)
    number, samples = len(counts), len(labels)
    rows = np.arange(samples)
    others = np.ones((samples, number), dtype=bool)
    others[rows, labels] = False

    def split(x):
        return x[:number * dim].reshape(number, dim), x[number * dim:].reshape(samples, dim)

    def margins(x):
        weight, features = split(x)
        logits = features @ weight.T
        return (logits[rows, labels][:, None] - logits)[others] - 1

    def margins_gradient(x):
        weight, features = split(x)
        out = []
        for i in range(samples):
            for j in np.flatnonzero(others[i]):
                d_weight, d_features = np.zeros_like(weight), np.zeros_like(features)
                d_weight[labels[i]], d_weight[j] = features[i], -features[i]
                d_features[i] = weight[labels[i]] - weight[j]
                out.append(np.concatenate([d_weight.ravel(), d_features.ravel()]))
        return np.array(out)

    start = np.random.default_rng(seed).normal(size=(number + samples) * dim)
    found = minimize(lambda x: (x @ x / 2, x), start, jac=True, method='SLSQP', options=dict(maxiter=500, ftol=1e-14),
                     constraints=dict(type='ineq', fun=margins, jac=margins_gradient))
    weight, features = split(found.x)
    return found.fun, weight @ features.T


@pytest.mark.parametrize('head, below, above, s_B', [(5, 0.0033, 0.00334, 0.0820), (3, 0.00454, 0.00456, 0.0108)])
def test_sharp_threshold(head, below, above, s_B):
    counts = [500] * head + [100] * (10 - head)
    limit = math.sqrt(100) / sum(counts)  # sqrt(n_B) / N
    assert below < limit < above
    # the spec's s_B is that of Z, ours that of Y = Z sqrt(n)
    before, after = (weight_decay_ufm(counts, decay, decay) for decay in (below, above))
    assert before.extra['s_B'] / 10 == pytest.approx(s_B, abs=5e-5) and before.collapsed is False
    assert after.extra['s_B'] == 0 and after.collapsed is True
    assert float(after.row()['cos_BB']) == pytest.approx(1, abs=1e-12)
    assert collapse_count(sum(counts), limit, limit) == pytest.approx(100)


def test_spread_below_the_threshold():
    assert weight_decay_ufm([500] * 5 + [100] * 5, 0.003, 0.003).extra['s_B'] / 10 == pytest.approx(0.668, abs=5e-4)


@pytest.mark.parametrize('decay_b', [1e-4, 1.0])
def test_threshold_does_not_see_the_bias_or_how_the_decay_is_split(decay_b):
    counts = [500] * 5 + [100] * 5
    for decay, collapsed in ((0.0033, False), (0.00334, True)):
        assert weight_decay_ufm(counts, decay / 20, decay * 20, decay_b).collapsed is collapsed
    assert weight_decay_ufm(counts, 0.0033 / 20, 0.0033 * 20).loss == pytest.approx(
        weight_decay_ufm(counts, 0.0033, 0.0033).loss, rel=1e-9)


def test_ratio_of_the_threshold():
    ratio = collapse_ratio(5, 5, 100, 0.005, 0.005)
    assert ratio == pytest.approx(3)
    assert collapse_ratio(3, 7, 100, 0.005, 0.005) == pytest.approx(13 / 3)  # N = 2000, so n_A = 433
    assert math.isnan(collapse_ratio(5, 1, 100, 0.005, 0.005))  # one class has none to collapse with
    for share, collapsed in ((0.99, False), (1.01, True)):
        assert weight_decay_ufm([100 * ratio * share] * 5 + [100] * 5, 0.005, 0.005).collapsed is collapsed


@pytest.mark.parametrize('decay', [0.004, 0.006, 0.008, 0.013])
def test_every_group_of_equal_classes_has_its_own_threshold(decay):
    sizes, samples = (3, 2, 2), np.array([400.0, 150.0, 50.0])
    weight = weight_decay_ufm(np.repeat(samples, sizes), decay, decay).weight
    spread = np.array([float(part.std(0, correction=0).square().sum()) for part in weight.split(sizes)])
    merged = np.sqrt(samples) / (sizes @ samples) <= decay  # .0125, .0077, .0044
    assert ((spread < 1e-20) == merged).all() and merged.sum() == {0.004: 0, 0.006: 1, 0.008: 2, 0.013: 3}[decay]


def test_any_counts_against_descent_on_weight_features_and_bias():
    counts, decay_w, decay_h, decay_b = [60, 30, 30, 8, 8, 3], 2e-3, 5e-3, 0.02
    solution = weight_decay_ufm(counts, decay_w, decay_h, decay_b)
    share = torch.tensor(counts, dtype=torch.float64)

    def objective(x):
        x = torch.from_numpy(x).requires_grad_()
        weight, means, bias = x[:36].view(6, 6), x[36:72].view(6, 6), x[72:]
        losses = torch.nn.functional.cross_entropy(means @ weight.T + bias, torch.arange(6), reduction='none')
        value = share @ losses / share.sum() + decay_b / 2 * bias.square().sum()
        value = value + decay_w / 2 * weight.square().sum() + decay_h / 2 * share @ means.square().sum(1)
        value.backward()
        return value.item(), x.grad.numpy()

    found = minimize(objective, np.random.default_rng(0).normal(size=78), jac=True, method='L-BFGS-B',
                     options=dict(maxiter=5000, maxfun=10_000, ftol=1e-15, gtol=1e-10))
    assert solution.loss == pytest.approx(found.fun, rel=1e-8)
    gram = (lambda w: w @ w.T)(found.x[:36].reshape(6, 6))
    np.testing.assert_allclose(solution.weight @ solution.weight.T, gram, atol=1e-4)
    assert solution.threshold == pytest.approx(139 ** 2 * 1e-5)


def test_a_thousand_classes_and_a_decay_next_to_nothing():
    many = weight_decay_ufm([500] * 500 + [5] * 500, 1e-6, 1e-6)
    assert many.collapsed is False and many.extra['gap'] < 1e-8
    gone = weight_decay_ufm([500] * 500 + [5] * 500, 1e-3, 1e-3)
    assert float(gone.weight.abs().max()) == 0 and gone.loss == pytest.approx(math.log(1000)) and gone.collapsed
    slight = weight_decay_ufm([10] * 4, 1e-10, 1e-10)
    assert slight.row()['cos_AA'] == pytest.approx(-1 / 3) and slight.loss < 1e-6


@pytest.mark.parametrize('counts, value, w_A, w_B, h_A, h_B, aa, bb, ab, h_bb', [
    ([100, 100, 10, 10], 20.578476, 6.854050, 3.435188, .083710, .191824, -.458991, .079446, -.382096, -.648532),
    ([100] * 5 + [1] * 5, 51.106335, None, None, None, None, -.148022, .338026, -.195903, -.228393)])
def test_seli_fixtures(counts, value, w_A, w_B, h_A, h_B, aa, bb, ab, h_bb):
    solution = seli(counts)
    row = solution.row()
    assert solution.loss == pytest.approx(value, abs=1e-6)
    assert [row[k] for k in ('cos_AA', 'cos_BB', 'cos_AB', 'h_cos_BB')] == pytest.approx([aa, bb, ab, h_bb], abs=1e-6)
    if w_A:
        squares = [float(x.square().sum()) for x in (*solution.weight[[0, -1]], *solution.means[[0, -1]])]
        assert squares == pytest.approx([w_A, w_B, h_A, h_B], abs=1e-6)


@pytest.mark.parametrize('counts', [[100, 100, 10, 10], [7, 7, 7, 3, 2, 2], [9, 4, 1]])
def test_seli_is_the_svd_of_the_encoded_labels(counts):
    number, root = len(counts), np.sqrt(counts)
    u, s, vh = np.linalg.svd((np.eye(number) - 1 / number) * root)
    solution = seli(counts)
    np.testing.assert_allclose(solution.weight @ solution.weight.T, (u * s) @ u.T, atol=3e-14 * s[0] * number)
    gram = (vh.T * s) @ vh / np.outer(root, root)
    np.testing.assert_allclose(solution.means @ solution.means.T, gram, atol=3e-14 * number)
    # it interpolates the encoded labels
    np.testing.assert_allclose(solution.weight @ solution.means.T, np.eye(number) - 1 / number, atol=1e-13)


def test_two_group_formulas():
    head, tail, n_A, n_B = 3, 4, 50.0, 2.0
    total, s_0 = 7, math.sqrt((4 * 50 + 3 * 2) / 7)
    solution = seli([n_A] * head + [n_B] * tail)
    row = solution.row()
    w_A = math.sqrt(n_A) * (1 - 1 / head) + s_0 * tail / (total * head)
    w_B = math.sqrt(n_B) * (1 - 1 / tail) + s_0 * head / (total * tail)
    assert solution.loss == pytest.approx((head - 1) * math.sqrt(n_A) + (tail - 1) * math.sqrt(n_B) + s_0, rel=1e-13)
    assert row['w_A/w_B'] == pytest.approx(math.sqrt(w_A / w_B), rel=1e-13)
    assert row['cos_BB'] == pytest.approx((s_0 * head / (total * tail) - math.sqrt(n_B) / tail) / w_B, rel=1e-12)
    assert row['cos_AB'] == pytest.approx(-s_0 / total / math.sqrt(w_A * w_B), rel=1e-12)


@pytest.mark.parametrize('counts, dim, least', [
    ([6, 6, 1, 1], 4, 5.320318436), ([2] * 3, 3, 2 * math.sqrt(2)), ([2] * 4, 3, 3 * math.sqrt(2)),
    ([5] * 4, 4, 3 * math.sqrt(5))])
def test_seli_is_the_minimum_of_the_margin_problem(counts, dim, least):
    value, logits = margin_problem(counts, dim)
    assert seli(counts).loss == pytest.approx(least, abs=1e-9)
    assert value == pytest.approx(least, abs=1e-8)
    np.testing.assert_allclose(logits, np.repeat(np.eye(len(counts)) - 1 / len(counts), counts, axis=1), atol=1e-6)


def test_seli_never_collapses_and_is_the_limit_of_no_decay():
    assert seli([10 ** 8] * 5 + [1] * 5).collapsed is False
    slight = weight_decay_ufm([100, 100, 10, 10], 1e-12, 1e-12).row()
    limit = seli([100, 100, 10, 10]).row()
    assert slight['cos_BB'] == pytest.approx(limit['cos_BB'], abs=0.06)  # convergence is slow: 1 / log


def test_impossible_settings():
    with pytest.raises(ValueError, match='`decay_w` to be positive and finite, but got 0'):
        weight_decay_ufm([5, 5], 0, 1)
    with pytest.raises(ValueError, match='`decay_b` to be positive'):
        weight_decay_ufm([5, 5], 1, 1, -1)
    with pytest.raises(ValueError, match='`decay_h` to be positive and finite, but got 0'):
        collapse_ratio(5, 5, 100, 1, 0)
    with pytest.raises(ValueError, match='`num_tail` to be a positive number of classes, but got 0'):
        collapse_ratio(5, 0, 100, 1, 1)
    with pytest.raises(ValueError, match='`num_samples` to be positive and finite, but got -1'):
        collapse_count(-1, 1, 1)
    with pytest.raises(RuntimeError, match='not solved in max_steps=3: relative gap .* Allow more steps'):
        weight_decay_ufm([500, 100, 20], 1e-5, 1e-5, max_steps=3)
