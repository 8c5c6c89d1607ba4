"""The terms of AllNC in the layer-peeled model: minority collapse vanishes."""
import math

import pytest
import torch

from allnc_mm.theory import allnc_layer_peeled, layer_peeled


def test_without_the_terms_it_is_the_layer_peeled_model():
    for classes, ratio in (((2, 2), 4.7685), ((5, 5), 100)):
        found = allnc_layer_peeled(*classes, ratio, 1, 5, hycon=0, p2p=0, eta=1)
        convex = layer_peeled(*classes, ratio, 1, 5)
        assert found.loss == pytest.approx(convex.loss, abs=1e-8)
        assert found.nc1 < 1e-8 or convex.collapsed  # equal means have no direction between them
        for name in ('cos_AA', 'cos_AB', 'cos_BB'):
            assert found.row()[name] == pytest.approx(convex.row()[name], abs=1e-5)


@pytest.mark.parametrize('eta, ratio', [(1.0, 100), (0.5, 100), (0.5, 1000)])
def test_collapse_vanishes(eta, ratio):
    assert layer_peeled(5, 5, ratio, 1, 5).collapsed
    found = allnc_layer_peeled(5, 5, ratio, 1, 5, eta=eta)
    row = found.row()
    assert found.collapsed is False
    assert row['cos_BB'] < 0 and row['h_cos_BB'] < 0
    assert found.nc1 < 1e-4
    # the geometry holds the angles; only the re-balanced branch holds the lengths
    assert (row['w_A/w_B'] < 2) == (eta < 1)


@pytest.mark.parametrize('ratio, settings', [(1, dict()), (1000, dict(hycon=0, p2p=0, eta=0))],
                         ids=['balanced', 'class-balanced sampling alone'])
def test_balanced_classes_or_batches_give_the_simplex(ratio, settings):
    row = allnc_layer_peeled(2, 2, ratio, **settings).row()
    for name in ('cos_AA', 'cos_AB', 'cos_BB', 'h_cos_AA', 'h_cos_AB', 'h_cos_BB'):
        assert row[name] == pytest.approx(-1 / 3, abs=1e-4)


def test_the_seed_sets_the_start():
    settings = dict(features_per_class=1, hycon=0)
    first, again, other = (allnc_layer_peeled(2, 2, 3, seed=seed, **settings) for seed in (0, 0, 1))
    assert (first.weight == again.weight).all()
    # another frame, the same optimum
    assert not torch.allclose(first.weight, other.weight, atol=0.1)
    assert other.loss == pytest.approx(first.loss, abs=1e-6)


def test_long_features():
    row = allnc_layer_peeled(2, 2, 100, 1, 1e6).row()
    assert all(math.isfinite(row[name]) for name in ('loss', 'cos_BB', 'w_A/w_B')) and row['collapsed'] is False


def test_impossible_settings():
    with pytest.raises(ValueError, match='`dim` of at least K - 1 = 3, but got 2'):
        allnc_layer_peeled(2, 2, 10, dim=2)
    with pytest.raises(ValueError, match=r'`eta` in \[0, 1\], but got 1.5'):
        allnc_layer_peeled(2, 2, 10, eta=1.5)
    with pytest.raises(ValueError, match='`p2p` to be a weight that is not negative, but got -1'):
        allnc_layer_peeled(2, 2, 10, p2p=-1)
    with pytest.raises(ValueError, match='`features_per_class` to be at least 1, but got 0'):
        allnc_layer_peeled(2, 2, 10, features_per_class=0)
