"""ReLU features: the closed form, and descent to it."""
import numpy as np
import pytest

from allnc_mm.theory import relu_ufm, relu_ufm_descent

COUNTS = [400, 200, 50, 12]


def test_closed_form():
    solution = relu_ufm(COUNTS)
    assert solution.curves['margin'] == pytest.approx([2.886538, 2.468146, 1.481666, 0], abs=1e-6)
    assert solution.curves['feature_norm_squared'] == pytest.approx([.124991, .151142, .181466, 0], abs=1e-6)
    assert solution.threshold == pytest.approx(14.608, abs=5e-4)
    assert solution.loss == pytest.approx(.672792, abs=5e-7)
    assert solution.extra['vanished'] == 1


def test_descent_ends_there():
    closed, found = relu_ufm(COUNTS), relu_ufm_descent(COUNTS, dim=5, seed=1)
    assert found.loss == pytest.approx(closed.loss, abs=1e-9)
    gram = found.means @ found.means.T
    assert float((gram - gram.diag().diag()).abs().max()) < 1e-5
    np.testing.assert_allclose(gram.diag(), closed.curves['feature_norm_squared'], atol=1e-5)
    assert float(found.means.min()) >= 0
    np.testing.assert_allclose(found.weight @ found.means.T, closed.weight @ closed.means.T, atol=1e-4)


def test_balanced_means_are_a_simplex_only_after_centring():
    row = relu_ufm([100] * 5).row()
    assert row['h_cos_AA'] == pytest.approx(-1 / 4)
    assert row['cos_AA'] == pytest.approx(-1 / 4)


@pytest.mark.parametrize('factor, vanished', [(0.999, 1), (1.001, 0)])
def test_threshold_is_sharp(factor, vanished):
    # the count that is its own threshold, with N counting it, too
    others, decay = 650, 5e-3
    small = next(n for n in np.linspace(1, 40, 400_000) if n >= (others + n) ** 2 * decay ** 2 * 4 / 3)
    assert relu_ufm([400, 200, 50, small * factor], decay, decay).extra['vanished'] == vanished


def test_many_classes_without_decay_to_speak_of():
    solution = relu_ufm([500] * 500 + [5] * 500, 1e-12, 1e-12)
    assert solution.extra['vanished'] == 0 and np.isfinite(solution.loss)


def test_impossible_settings():
    with pytest.raises(ValueError, match='`dim` of at least K=4, but got 3'):
        relu_ufm_descent(COUNTS, dim=3)
    with pytest.raises(ValueError, match='`decay_h` to be positive'):
        relu_ufm(COUNTS, 1e-3, 0)
