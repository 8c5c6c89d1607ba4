"""Layer-peeled model: thresholds and cosines of minority collapse."""
import math

import numpy as np
import pytest

from allnc_mm.theory import layer_peeled, layer_peeled_sweep, minority_collapse_threshold

THRESHOLDS = {  # (K_A, K_B): R* at E_H = 1, 5, 10
    (2, 2): (3.3805, 47.685, 414.13),
    (3, 3): (2.3637, 23.980, 180.68),
    (4, 4): (1.9555, 16.074, 112.38),
    (5, 5): (1.7354, 12.192, 81.102),
    (3, 7): (4.1359, 245.50, 6350.8),
    (7, 3): (1.3695, 4.0005, 13.666),
}
COSINES = {  # at .5, .9, .99, 1.01 of R*, E_H = 5
    (2, 2): (0.43365, 0.88513, 0.98842, 1.0),
    (5, 5): (0.13715, 0.68775, 0.96166, 1.0),
}


@pytest.mark.parametrize('classes', THRESHOLDS)
def test_threshold(classes):
    found = [minority_collapse_threshold(*classes, energy_h=energy) for energy in (1, 5, 10)]
    assert found == pytest.approx(THRESHOLDS[classes], rel=1e-4)


def test_threshold_reads_the_product_of_the_energies():
    assert minority_collapse_threshold(3, 3, 2.5, 2) == pytest.approx(minority_collapse_threshold(3, 3, 1, 5), rel=1e-7)


@pytest.mark.parametrize('classes', COSINES)
def test_cosine_around_the_threshold(classes):
    threshold = minority_collapse_threshold(*classes, energy_h=5)
    for share, cosine in zip((0.5, 0.9, 0.99, 1.01), COSINES[classes]):
        solution = layer_peeled(*classes, share * threshold, energy_h=5)
        assert solution.row()['cos_BB'] == pytest.approx(cosine, abs=2e-5)
        assert solution.collapsed == (share > 1)


def test_one_optimum_in_full():
    solution = layer_peeled(2, 2, 4.7685, energy_w=1, energy_h=5)
    row = solution.row()
    assert solution.loss == pytest.approx(0.10693225, abs=1e-8)
    cosines = [row[name] for name in ('cos_BB', 'cos_AA', 'cos_AB')]
    assert cosines == pytest.approx([-.11242, -.45081, -.34909], abs=1e-5)
    # the constraints hold with equality, and the bound of the loss is met
    assert float(solution.weight.square().sum()) == pytest.approx(4, rel=1e-9)
    assert float(solution.means.square().sum()) == pytest.approx(20, rel=1e-9)
    assert solution.extra['gap'] < 1e-7
    logits = (solution.weight @ solution.means.T).numpy()
    losses = np.log(np.exp(logits).sum(0)) - logits.diagonal()
    assert solution.counts @ losses / solution.counts.sum() == pytest.approx(solution.loss, rel=1e-12)


def test_cosine_only_grows_with_the_imbalance():
    solutions = layer_peeled_sweep(5, 5, np.geomspace(1, 100, 15), 1, 5)
    cosines = [solution.row()['cos_BB'] for solution in solutions]
    assert cosines[0] == pytest.approx(-1 / 9, abs=1e-9) and cosines[-1] == pytest.approx(1)
    assert all(after >= before - 1e-9 for before, after in zip(cosines, cosines[1:]))
    assert all(solution.threshold == pytest.approx(12.192, rel=1e-4) for solution in solutions)


@pytest.mark.parametrize('classes, ratio, energy', [
    ((500, 500), 1.05, 5), ((10, 990), 3, 100), ((2, 2), 100, 1e6), ((1, 2), 100, 1e4), ((2, 2), 1.01, 1e-3)])
def test_many_classes_and_long_and_short_vectors(classes, ratio, energy):
    solution = layer_peeled(*classes, ratio, energy_h=energy)
    row = solution.row()
    assert all(math.isfinite(row[name]) for name in ('cos_AB', 'cos_BB', 'w_A/w_B'))
    assert solution.extra['gap'] < 1e-6 * max(1, -solution.extra['log_loss'])


@pytest.mark.parametrize('classes, ratio, energy', [((500, 500), 100, 1), ((500, 500), 1.2, 5), ((2, 2), 3, 1e-3)])
def test_far_beyond_the_threshold_the_minority_has_no_vectors(classes, ratio, energy):
    solution = layer_peeled(*classes, ratio, energy_h=energy)
    assert solution.collapsed is True and solution.row()['w_A/w_B'] == math.inf
    assert float(solution.weight[classes[0]:].abs().max()) == 0
    assert abs(solution.extra['gap']) < 1e-12  # and that is the optimum, not a rounding


def test_a_sweep_restarts_where_vectors_have_vanished():
    sweep = layer_peeled_sweep(50, 50, [10, 1.5], 1, 5)  # backwards, from zero vectors
    assert sweep[0].row()['w_A/w_B'] == math.inf
    assert sweep[1].row()['cos_BB'] == pytest.approx(layer_peeled(50, 50, 1.5, 1, 5).row()['cos_BB'], abs=1e-4)


def test_a_threshold_beyond_float64_is_infinite():
    assert minority_collapse_threshold(2, 2, 1, 1e6) == math.inf


def test_a_single_minority_class_has_no_threshold():
    solution = layer_peeled(2, 1, 10)
    assert solution.collapsed is None and math.isnan(solution.row()['cos_BB'])
    with pytest.raises(ValueError, match='`num_tail` to be at least 2, but got 1'):
        minority_collapse_threshold(2, 1)


def test_impossible_settings():
    with pytest.raises(ValueError, match='`energy_h` to be positive and finite, but got -1'):
        layer_peeled(2, 2, 3, energy_h=-1)
    with pytest.raises(ValueError, match='at least 1, but got 0.9'):
        layer_peeled(2, 2, 0.9)
    with pytest.raises(ValueError, match='`num_head` to be a positive number of classes, but got 0'):
        layer_peeled(0, 2, 3)
