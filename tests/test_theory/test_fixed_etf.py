"""A fixed ETF: nothing collapses."""
import math

import pytest

from allnc_mm.theory import fixed_etf, layer_peeled


@pytest.mark.parametrize('settings', [dict(), dict(loss='dr'), dict(loss='dr', form='released')])
def test_features_end_on_their_vectors(settings):
    solution = fixed_etf([1] * 5, 4, 2.25, 4, **settings)
    tolerance = 1e-12 if not settings else 1e-6  # dot regression is of fourth order in the angle
    assert solution.extra['min_cos'] == pytest.approx(1, abs=tolerance)
    assert solution.means.square().sum(1).tolist() == pytest.approx([4] * 5)
    if settings:
        assert solution.loss < 1e-12
    else:  # logits of the optimum: sqrt(E_W E_H) and -1/4 of it
        assert solution.loss == pytest.approx(math.log(1 + 4 * math.exp(-3 * 1.25)), rel=1e-10)


@pytest.mark.parametrize('ratio', [1, 30, 1000])
def test_contrast_to_a_learned_classifier(ratio):
    row = fixed_etf([10 * ratio] * 5 + [10] * 5, energy_h=5, num_head=5).row()
    for name in ('cos_AA', 'cos_AB', 'cos_BB', 'h_cos_AA', 'h_cos_AB', 'h_cos_BB'):
        assert row[name] == pytest.approx(-1 / 9, abs=1e-7)
    assert row['collapsed'] is False
    assert layer_peeled(5, 5, ratio, energy_h=5).collapsed == (ratio > 12.192)


@pytest.mark.parametrize('energies', [(1e4, 1e4), (1e-4, 1e-4)])
def test_long_and_short_vectors(energies):
    assert fixed_etf([1000, 1000, 1, 1], 6, *energies).extra['min_cos'] == pytest.approx(1, abs=1e-9)


def test_a_thousand_classes():
    found = fixed_etf([1000] * 500 + [1] * 500, energy_h=5)
    assert found.extra['min_cos'] == pytest.approx(1, abs=1e-9) and found.collapsed is False


def test_the_seed_sets_frame_and_start():
    first, again, other = (fixed_etf([3, 1, 1], seed=seed) for seed in (0, 0, 1))
    assert (first.means == again.means).all() and (first.means - other.means).abs().max() > 0.1


def test_impossible_settings():
    with pytest.raises(ValueError, match='num_classes=5 needs dim >= 4, but got dim=3'):
        fixed_etf([1] * 5, 3)
    with pytest.raises(ValueError, match="`loss` to be one of .*, but got 'mse'"):
        fixed_etf([1] * 5, loss='mse')
    with pytest.raises(ValueError, match="`form` to be one of"):
        fixed_etf([1] * 5, loss='dr', form='other')
