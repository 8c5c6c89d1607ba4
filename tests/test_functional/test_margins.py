import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from allnc_mm.functional.margins import (
    class_balanced_weights,
    inverse_frequency_weights,
    ldam_cross_entropy,
    ldam_margins,
    tau_normalize,
)

COUNTS = [500, 77, 5]


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize('beta', [0.9, 0.9999])
def test_class_balanced_weights_are_the_published_formula(beta):
    weights = class_balanced_weights(COUNTS, beta)
    raw = [(1 - beta) / (1 - beta**n) for n in COUNTS]
    np.testing.assert_allclose(weights, np.array(raw) / sum(raw) * 3, rtol=1e-10)
    assert weights.sum() == pytest.approx(3)


def test_class_balanced_weights_between_none_and_inverse_frequency():
    np.testing.assert_allclose(class_balanced_weights(COUNTS, 0.0), 1)
    np.testing.assert_allclose(class_balanced_weights(COUNTS, 1 - 1e-12), inverse_frequency_weights(COUNTS), rtol=1e-6)


def test_inverse_frequency_weights():
    raw = [n**-1.2 for n in COUNTS]
    np.testing.assert_allclose(inverse_frequency_weights(COUNTS, 1.2), np.array(raw) / sum(raw) * 3)
    np.testing.assert_allclose(inverse_frequency_weights(COUNTS, 0), 1)


def test_ldam_margins_are_the_published_formula():
    raw = [1 / math.sqrt(math.sqrt(n)) for n in COUNTS]
    np.testing.assert_allclose(ldam_margins(COUNTS, 0.5), [m * 0.5 / max(raw) for m in raw])


@pytest.mark.parametrize('call, match', [
    (lambda: class_balanced_weights(COUNTS, 1.0), r'`beta` in \[0, 1\), but got 1.0'),
    (lambda: class_balanced_weights([3, 0]), 'counts above 0.*remove classes'),
    (lambda: inverse_frequency_weights([3, -1]), 'counts above 0'),
    (lambda: inverse_frequency_weights(COUNTS, math.inf), 'finite'),
    (lambda: ldam_margins(COUNTS, 0.0), '`max_margin` to be positive, but got 0.0'),
])
def test_bad_settings(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def slow_ldam(logits, label, margins):
    """The loss of one sample by its definition."""
    shifted = [f - (m if k == label else 0) for k, (f, m) in enumerate(zip(logits, margins))]
    largest = max(shifted)
    return largest + math.log(sum(math.exp(f - largest) for f in shifted)) - shifted[label]


@pytest.mark.parametrize('scale', [1, 30])
def test_ldam_against_a_loop(scale):
    logits, margins, labels = scale * rand(8, 5), scale * torch.linspace(0.1, 0.5, 5), torch.arange(8) % 5
    expected = [slow_ldam(f, y, margins.tolist()) for f, y in zip(logits.tolist(), labels.tolist())]
    found = ldam_cross_entropy(logits, labels, margins)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-5)
    soft = rand(8, 5, seed=1).softmax(1)
    expected = [sum(p * slow_ldam(f, k, margins.tolist()) for k, p in enumerate(row))
                for f, row in zip(logits.tolist(), soft.tolist())]
    torch.testing.assert_close(ldam_cross_entropy(logits, soft, margins).double(), torch.tensor(expected).double(),
                               rtol=1e-5, atol=1e-5)
    one_hot = F.one_hot(labels, 5)
    torch.testing.assert_close(ldam_cross_entropy(logits, one_hot, margins), found)


def test_ldam_is_the_shifted_cross_entropy_with_its_gradient():
    labels, margins = torch.tensor([0, 3, 4, 4]), 30 * torch.linspace(0.1, 0.5, 5)
    logits = (10 * rand(4, 5)).requires_grad_()
    shifted = logits - F.one_hot(labels, 5) * margins
    reference, = torch.autograd.grad(F.cross_entropy(shifted, labels, reduction='sum'), logits)
    gradient, = torch.autograd.grad(ldam_cross_entropy(logits, labels, margins).sum(), logits)
    torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ldam_cross_entropy(logits, labels, torch.zeros(5)),
                               F.cross_entropy(logits, labels, reduction='none').float())


@pytest.mark.parametrize('logits', [[[1e4, -1e4, 0.0]], [[-80.0, 80.0, 80.0]], [[0.0, 0.0, 0.0]]])
def test_ldam_stays_finite_and_exact_for_extreme_logits(logits):
    """One logit far above the others is where a difference of exponentials would cancel."""
    margins = torch.tensor([15.0, 7.0, 3.0])
    for label in range(3):
        x = torch.tensor(logits, requires_grad=True)
        loss = ldam_cross_entropy(x, torch.tensor([label]), margins)
        assert loss.item() == pytest.approx(slow_ldam(logits[0], label, margins.tolist()), rel=1e-5, abs=1e-6)
        loss.sum().backward()
        assert x.grad.isfinite().all()
    soft = torch.full((1, 3), 1 / 3)
    x = torch.tensor(logits, requires_grad=True)
    ldam_cross_entropy(x, soft, margins).sum().backward()
    assert x.grad.isfinite().all()


def test_ldam_takes_bfloat16():
    logits, margins = rand(4, 3).bfloat16(), torch.ones(3)
    loss = ldam_cross_entropy(logits, torch.tensor([0, 1, 2, 0]), margins)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ldam_cross_entropy(logits.float(), torch.tensor([0, 1, 2, 0]), margins))


def test_tau_normalize():
    weight = rand(4, 6)
    lengths = weight.norm(dim=1)
    for tau in (0.0, 0.7, 1.0):
        torch.testing.assert_close(tau_normalize(weight, tau).norm(dim=1), lengths**(1 - tau))
    torch.testing.assert_close(F.cosine_similarity(tau_normalize(weight, 2.0), weight), torch.ones(4).double())
