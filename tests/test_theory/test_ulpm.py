"""Gradient flow without weight decay: where it goes, how fast, and what it conserves."""
import math

import numpy as np
import pytest
import torch

from allnc_mm.theory import gradient_flow, growth_margin, seli


@pytest.mark.parametrize('number, samples, value', [(3, 2, 2.828427), (4, 2, 4.242641), (4, 5, 6.708204)])
def test_balanced_minimum(number, samples, value):
    assert seli([samples] * number).loss == pytest.approx(value, abs=1e-6)
    assert seli([samples] * number).loss == pytest.approx((number - 1) * math.sqrt(samples), rel=1e-13)


def test_balanced_optimum_in_full():
    optimum = seli([10] * 4)
    assert optimum.loss == pytest.approx(9.486833, abs=1e-6)
    assert optimum.weight.square().sum(1).numpy() == pytest.approx(np.full(4, 2.371708), abs=1e-6)
    assert optimum.means.square().sum(1).numpy() == pytest.approx(np.full(4, .2371708), abs=1e-7)
    assert optimum.row()['cos_AA'] == pytest.approx(-1 / 3)


@pytest.fixture(scope='module', params=[0, 1])
def flow(request):
    return gradient_flow([10] * 4, dim=8, seed=request.param)


def test_direction_tends_to_the_simplex(flow):
    assert flow.extra['margin'] > 400
    assert flow.extra['norm/margin'] == pytest.approx(9.486833, rel=0.01)
    assert flow.extra['std_cos_W'] < 1e-3 and flow.extra['std_cos_H'] < 1e-3
    assert flow.nc1 < 1e-6
    assert flow.extra['NC3'] < 0.02 and flow.extra['W2/H2'] == pytest.approx(1, abs=0.02)
    ratios = [value for value in flow.curves['norm/margin'] if value == value]
    assert min(ratios) >= 3 * math.sqrt(10) - 1e-9
    assert all(after <= before * (1 + 1e-6) for before, after in zip(ratios, ratios[1:]))
    assert flow.extra['drift'] < 1e-6 * float(flow.weight.square().sum())
    # once separated, the classifier decides as the nearest class mean does (NC4), for any point between the means
    points = (flow.means[:, None] + 0.9 * flow.means).flatten(0, 1)
    nearest = torch.cdist(points, flow.means).argmin(1)
    assert torch.equal((points @ flow.weight.T).argmax(1), nearest) and set(nearest.tolist()) == {0, 1, 2, 3}


def test_the_seed_sets_the_flow(flow):
    again = gradient_flow([10] * 4, dim=8, seed=flow.knobs['seed'], steps=50)
    once_more = gradient_flow([10] * 4, dim=8, seed=flow.knobs['seed'], steps=50)
    assert (again.weight == once_more.weight).all()
    other = gradient_flow([10] * 4, dim=8, seed=flow.knobs['seed'] + 1, steps=50)
    assert not torch.allclose(again.weight, other.weight, atol=0.1)


def test_imbalanced_flow_tends_to_seli():
    found = gradient_flow([60, 60, 10, 10], dim=6, steps=2500)
    assert found.extra['norm/margin'] == pytest.approx(seli([60, 60, 10, 10]).loss, rel=0.01)
    assert found.row()['cos_BB'] == pytest.approx(seli([60, 60, 10, 10]).row()['cos_BB'], abs=0.02)


def test_conserved_matrix_and_order_of_the_step():
    drift = [gradient_flow([10] * 4, dim=8, steps=int(100 / step), step_size=step, clock='time').extra['drift']
             for step in (0.04, 0.02)]
    assert drift[1] < 2e-6
    assert 3.5 < drift[0] / drift[1] < 4.6  # second order


def test_growth_law():
    assert growth_margin(math.log(100), 4, 10) == pytest.approx(5.4557, abs=5e-5)
    assert growth_margin(math.log(4000), 4, 10) == pytest.approx(10.01311, abs=5e-6)
    offsets = [growth_margin(log_time, 4, 10) - log_time - math.log(log_time)
               for log_time in (10, 50, 100, 1000, 1e5, 1e6)]
    assert offsets[:3] == pytest.approx([-.382, -.410, -.427], abs=5e-4)
    limit = math.log(2 / math.sqrt(10))
    assert all(before > after > limit for before, after in zip(offsets, offsets[1:]))
    assert offsets[-1] == pytest.approx(limit, abs=1e-4)


def test_flow_on_the_ray_follows_the_growth_law():
    settings = dict(start='ray', margin=0.5, dim=5)
    plain = gradient_flow([10] * 4, steps=2500, step_size=0.04, clock='time', **settings)
    assert plain.extra['margin'] == pytest.approx(5.4557, abs=5e-5)
    assert plain.nc1 < 1e-20 and plain.extra['std_cos_W'] < 1e-10
    fast = gradient_flow([10] * 4, steps=600, **settings)
    log_time = fast.extra['log10_t'] * math.log(10)
    assert fast.extra['margin'] == pytest.approx(growth_margin(log_time, 4, 10), rel=1e-3)


def test_long_past_the_underflow_of_the_loss():
    found = gradient_flow([2] * 3, dim=2, steps=1500)
    assert found.loss == 0 and found.extra['log_loss'] < -1000
    assert all(math.isfinite(value) for value in found.extra.values())


def test_impossible_settings():
    with pytest.raises(ValueError, match='`dim` of at least K - 1 = 3, but got 2'):
        gradient_flow([5] * 4, dim=2)
    with pytest.raises(ValueError, match='hold integers, but got 2.5'):
        gradient_flow([2.5, 2], dim=2)
    with pytest.raises(ValueError, match="`clock` to be one of .*, but got 'wall'"):
        gradient_flow([5, 5], dim=2, clock='wall')
    with pytest.raises(ValueError, match='`step_size` to be positive and finite, but got 0'):
        gradient_flow([5, 5], dim=2, step_size=0)
    with pytest.raises(ValueError, match="start='ray' is that of balanced classes"):
        gradient_flow([5, 4], dim=2, start='ray')
    with pytest.raises(ValueError, match='`log_time` to be at most 1e6'):
        growth_margin(1e7, 4, 10)
