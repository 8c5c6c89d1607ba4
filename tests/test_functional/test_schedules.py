import math

import pytest

from allnc_mm.functional import gbbn_eta


@pytest.mark.parametrize('gamma', [0.25, 1.0, 2.0, 7.5])
def test_eta_falls_from_one_to_zero(gamma):
    etas = [gbbn_eta(i / 100, gamma) for i in range(101)]
    assert etas[0] == 1.0 and etas[-1] == 0.0
    assert all(a > b for a, b in zip(etas[:-1], etas[1:]))
    assert etas[30] == pytest.approx(1 - math.exp(gamma * math.log(0.3)), abs=1e-12)


def test_progress_is_clamped():
    assert gbbn_eta(-0.1) == 1.0
    assert gbbn_eta(1.5) == 0.0
    assert gbbn_eta(float('inf')) == 0.0


def test_gamma_moves_the_handover():
    assert gbbn_eta(0.5, 0.5) < gbbn_eta(0.5, 1) < gbbn_eta(0.5, 2) < gbbn_eta(0.5, 8)


@pytest.mark.parametrize('gamma', [0, -1.0, float('nan')])
def test_bad_gamma(gamma):
    with pytest.raises(ValueError, match='Expected `gamma` to be positive.*gamma=2 is the parabola of BBN'):
        gbbn_eta(0.5, gamma)


def test_bad_progress():
    with pytest.raises(ValueError, match='Expected `progress` to be a number'):
        gbbn_eta(float('nan'))
