"""Unit vectors and a temperature: the path to a softmax code."""
import math

import pytest

from allnc_mm.theory import spherical

RHO = {1: .731033, .3: .734623, .1: .738085, .03: .738730, .01: .738789, .003: .738795}  # (d, K) = (3, 8)


def test_path_to_the_softmax_code():
    path = spherical(8, 3, list(RHO), restarts=6)
    assert [solution.knobs['tau'] for solution in path] == sorted(RHO, reverse=True)
    for solution, rho in zip(path, RHO.values()):
        assert solution.extra['rho'] == pytest.approx(rho, abs=1e-6)
        assert solution.extra['GNC3'] < 1e-6
    limits = {solution.knobs['tau']: solution.extra['-tau*log_loss'] for solution in path}
    assert limits[.1] == pytest.approx(.603712, abs=1e-6)
    assert limits[.003] == pytest.approx(.734741, abs=1e-6)
    assert path[-1].loss == pytest.approx(math.exp(-limits[.003] / .003), rel=1e-6)


@pytest.mark.parametrize('number, dim, rho', [(8, 2, 1 - math.cos(math.pi / 4)), (5, 3, 1), (4, 3, 4 / 3)])
def test_optimal_at_any_temperature(number, dim, rho):
    for solution in spherical(number, dim, [1, 0.1], restarts=3):
        assert solution.extra['rho'] == pytest.approx(rho, abs=1e-6)


def test_the_seed_sets_the_start():
    first, again, other = (spherical(5, 3, [0.1], restarts=1, seed=seed)[0] for seed in (0, 0, 1))
    assert (first.weight == again.weight).all() and (first.weight - other.weight).abs().max() > 0.1


def test_impossible_settings():
    with pytest.raises(ValueError, match='`temperature` to be positive and finite, but got 0'):
        spherical(8, 3, [1, 0])
    with pytest.raises(ValueError, match='`dim` of at least 2, but got 1'):
        spherical(8, 1)
    with pytest.raises(ValueError, match='at least two classes'):
        spherical(1, 3)
    with pytest.raises(ValueError, match='at least one temperature'):
        spherical(8, 3, [])
