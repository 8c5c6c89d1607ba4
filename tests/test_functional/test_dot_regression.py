import doctest
import math

import pytest
import torch

from allnc_mm.functional import dot_regression
from allnc_mm.functional.dot_regression import dot_regression_loss
from allnc_mm.functional.geometry import simplex_etf


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def length(row):
    return math.sqrt(sum(v * v for v in row))


def naive(features, labels, codes, form='paper', normalize=None, feature_length=1.0):
    """Value for each sample and gradient for each normalised feature, by loops over numbers."""
    values, gradients = [], []
    for h, y in zip(features.tolist(), labels.tolist()):
        weights = y if isinstance(y, list) else [float(k == y) for k in range(len(codes))]
        if normalize or (normalize is None and form == 'paper'):
            h = [v * feature_length / length(h) for v in h]
        value, gradient = 0.0, [0.0] * len(h)
        for w, m in zip(weights, codes.tolist()):
            dot = sum(a * b for a, b in zip(h, m))
            scale = feature_length if form == 'paper' else length(h)
            divisor = 2 * length(m) * scale if form == 'paper' else 2 * scale
            value += w * (dot - length(m) * scale)**2 / divisor
            gradient = [g + w * 2 * (dot - length(m) * scale) / divisor * b for g, b in zip(gradient, m)]
        values.append(value)
        gradients.append(gradient)
    return torch.tensor(values, dtype=torch.float64), torch.tensor(gradients, dtype=torch.float64)


def labels_of(kind, num_classes=4, size=6):
    if kind == 'hard':
        return torch.tensor([0, 1, 2, 3, 1, 0])
    return normal(size, num_classes, seed=5).softmax(dim=1)


@pytest.mark.parametrize('kind', ['hard', 'soft'])
@pytest.mark.parametrize('form, normalize, feature_length',
                         [('paper', None, 1.0), ('paper', True, 2.5), ('paper', False, 2.5), ('released', None, 1.0),
                          ('released', True, 2.5), ('released', False, 1.0)])
def test_value_against_loops(kind, form, normalize, feature_length):
    # Neither features nor codes have unit length, and the codes' lengths differ.
    features, codes, labels = 3 * normal(6, 5), normal(4, 5, seed=1), labels_of(kind)
    expected, _ = naive(features, labels, codes, form, normalize, feature_length)
    kwargs = dict(form=form, normalize=normalize, length=feature_length)
    loss = dot_regression_loss(features, labels, codes, reduction='none', **kwargs)
    assert loss.shape == (6, )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(dot_regression_loss(features, labels, codes, **kwargs), expected.mean())
    torch.testing.assert_close(dot_regression_loss(features, labels, codes, reduction='sum', **kwargs), expected.sum())


@pytest.mark.parametrize('kind', ['hard', 'soft'])
@pytest.mark.parametrize('form', ['paper', 'released'])
def test_gradient_of_the_dot_product_alone(kind, form):
    features, codes, labels = normal(6, 5), normal(4, 5, seed=1), labels_of(kind)
    features.requires_grad_()
    dot_regression_loss(features, labels, codes, form=form, normalize=False, length=1.7, reduction='sum').backward()
    _, expected = naive(features, labels, codes, form, False, 1.7)
    torch.testing.assert_close(features.grad, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize('form', ['paper', 'released'])
def test_gradient_fixture_of_unit_vectors(form):
    # d/dh = -(1 - cos) w: the pull term only.
    features, codes = normal(6, 5), simplex_etf(4, 5)
    labels = labels_of('hard')
    unit = (features / features.norm(dim=1, keepdim=True)).requires_grad_()
    dot_regression_loss(unit, labels, codes, form=form, normalize=False, reduction='sum').backward()
    cosine = (unit.detach() * codes[labels]).sum(dim=1, keepdim=True)
    torch.testing.assert_close(unit.grad, -(1 - cosine) * codes[labels], rtol=1e-12, atol=1e-14)


def test_gradient_of_the_released_form_does_not_depend_on_the_length():
    codes, labels = 1.5 * simplex_etf(4, 5), labels_of('hard')
    grads, values = [], []
    for scale in (1.0, 7.0):
        features = (scale * normal(6, 5)).requires_grad_()
        loss = dot_regression_loss(features, labels, codes, form='released', reduction='none')
        loss.sum().backward()
        grads.append(features.grad)
        values.append(loss.detach())
    cosine = torch.cosine_similarity(normal(6, 5), codes[labels])
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[0], -1.5 * (1 - cosine)[:, None] * codes[labels])
    torch.testing.assert_close(values[1], 1.5**2 * 7 * normal(6, 5).norm(dim=1) * (1 - cosine)**2 / 2)


@pytest.mark.parametrize('kind', ['hard', 'soft'])
def test_gradcheck_through_the_normalisation_and_the_codes(kind):
    features, codes, labels = normal(6, 5).requires_grad_(), simplex_etf(4, 5), labels_of(kind)
    assert torch.autograd.gradcheck(lambda h: dot_regression_loss(h, labels, codes, length=2.0), (features, ))

    def rotated(angle):  # a learnable rotation keeps the lengths, which are constants
        c, s = angle.cos(), angle.sin()
        first = torch.stack([codes[:, 0] * c - codes[:, 1] * s, codes[:, 0] * s + codes[:, 1] * c], dim=1)
        return dot_regression_loss(features.detach(), labels, torch.cat([first, codes[:, 2:]], dim=1))

    assert torch.autograd.gradcheck(rotated, (torch.tensor(0.3, dtype=torch.float64, requires_grad=True), ))


@pytest.mark.parametrize('form', ['paper', 'released'])
def test_lengths_of_the_codes_are_constants(form):
    features, codes = normal(1, 5), normal(1, 5, seed=1).requires_grad_()
    features /= features.norm()
    dot_regression_loss(features, torch.tensor([0]), codes, form=form).backward()
    scale = codes.detach().norm()
    gap = features @ codes.detach()[0] - scale
    torch.testing.assert_close(codes.grad, gap / (scale if form == 'paper' else 1) * features)


def test_paper_fixture_has_its_zero_at_the_code():
    # K=5, d=4, E_W=2.25, E_H=4: zero at h = sqrt(E_H) w / |w|, for any class sizes.
    codes = 1.5 * simplex_etf(5, 4)
    labels = torch.tensor([0, 0, 0, 0, 1, 2, 3, 4])
    features = 2 * codes[labels] / 1.5
    assert dot_regression_loss(features, labels, codes, length=2.0, normalize=False) == pytest.approx(0, abs=1e-28)
    assert dot_regression_loss(-features, labels, codes, length=2.0) == pytest.approx(0.5 * 3 * 4)  # cos = -1


def test_optimum_is_the_code_whatever_the_class_sizes():
    codes, labels = simplex_etf(4, 5), torch.tensor([0] * 50 + [1] * 10 + [2] * 3 + [3])
    features = normal(64, 5).requires_grad_()
    optimizer = torch.optim.SGD([features], lr=20.0)
    for _ in range(2000):
        optimizer.zero_grad()
        dot_regression_loss(features, labels, codes).backward()
        optimizer.step()
    # The loss is quartic in the angle at its optimum, so convergence is slow there.
    assert torch.cosine_similarity(features.detach(), codes[labels]).min() > 0.98


def test_one_hot_soft_labels_are_hard_labels():
    features, codes, labels = normal(6, 5), normal(4, 5, seed=1), labels_of('hard')
    one_hot = torch.nn.functional.one_hot(labels, 4)
    for soft in (one_hot, one_hot.double()):
        torch.testing.assert_close(
            dot_regression_loss(features, soft, codes), dot_regression_loss(features, labels, codes))
    # Mixup: the lam-weighted sum of two terms.
    mixed = 0.3 * one_hot + 0.7 * one_hot.flip(0)
    first, second = (dot_regression_loss(features, y, codes) for y in (labels, labels.flip(0)))
    expected = 0.3 * first + 0.7 * second
    torch.testing.assert_close(dot_regression_loss(features, mixed, codes), expected)


@pytest.mark.parametrize('form', ['paper', 'released'])
@pytest.mark.parametrize('kind', ['hard', 'soft'])
def test_bfloat16_and_autocast_compute_in_float32(form, kind):
    features, codes, labels = normal(6, 5).bfloat16(), simplex_etf(4, 5, dtype=torch.float32), labels_of(kind)
    expected = dot_regression_loss(features.double(), labels, codes.double(), form=form)
    with torch.autocast('cpu', torch.bfloat16):
        loss = dot_regression_loss(features, labels, codes, form=form)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize('form', ['paper', 'released'])
@pytest.mark.parametrize('scale', [1e-5, 1e25])
def test_extreme_lengths(form, scale):
    direction, codes, labels = normal(6, 5), simplex_etf(4, 5), labels_of('hard')
    features = (scale * direction).float().requires_grad_()
    loss = dot_regression_loss(features, labels, codes.float(), form=form)
    expected = dot_regression_loss(scale * direction, labels, codes, form=form)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)
    loss.backward()
    assert features.grad.isfinite().all() and features.grad.abs().sum() > 0


@pytest.mark.parametrize('form, value', [('paper', 0.5), ('released', 0.5e-8)])
def test_zero_feature_has_a_finite_pull(form, value):
    features = torch.zeros(1, 3, requires_grad=True)
    codes = simplex_etf(2, 3, dtype=torch.float32)
    loss = dot_regression_loss(features, torch.tensor([1]), codes, form=form)
    assert loss.item() == pytest.approx(value)
    loss.backward()
    torch.testing.assert_close(features.grad, -codes[1:])


def test_two_classes_one_dimension_and_no_sample():
    codes = simplex_etf(2, 1)
    assert dot_regression_loss(3 * codes[:1], torch.tensor([0]), codes) == 0
    assert dot_regression_loss(3 * codes[:1], torch.tensor([1]), codes).item() == pytest.approx(2)
    empty = torch.zeros(0, 1, requires_grad=True)
    loss = dot_regression_loss(empty, torch.zeros(0, dtype=torch.long), codes.float())
    loss.backward()
    assert loss == 0 and empty.grad.shape == (0, 1)


def test_bad_arguments():
    features, codes, labels = normal(6, 5), normal(4, 5, seed=1), labels_of('hard')
    with pytest.raises(ValueError, match=r"`form` to be one of \('paper', 'released'\), but got 'official'"):
        dot_regression_loss(features, labels, codes, form='official')
    with pytest.raises(ValueError, match="`reduction` to be one of .* but got 'avg'"):
        dot_regression_loss(features, labels, codes, reduction='avg')
    with pytest.raises(ValueError, match='`length` to be positive, but got 0'):
        dot_regression_loss(features, labels, codes, length=0)
    with pytest.raises(ValueError, match=r'\(6, 5\) and \(4, 4\); the code must have the dimension'):
        dot_regression_loss(features, labels, codes[:, :4])
    with pytest.raises(ValueError, match=r'shape \(N, d\)'):
        dot_regression_loss(features[:, :, None, None], labels, codes)
    for bad in (labels[:5], labels[:, None], labels.double(), torch.zeros(6, 3)):
        with pytest.raises(ValueError, match=r'shape \(6,\) or soft labels of shape \(6, 4\), but got torch'):
            dot_regression_loss(features, bad, codes)


def test_examples():
    result = doctest.testmod(dot_regression)
    assert result.attempted >= 3 and result.failed == 0
