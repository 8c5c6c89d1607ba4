import math

import pytest
import torch
from scipy import optimize

from allnc_mm.functional import (
    OneVsRestDistance,
    geometry,
    one_vs_rest_distance,
    one_vs_rest_lower_bounds,
    simplex_etf,
    softmax_code,
)
from allnc_mm.functional import one_vs_rest as module


def rows(num_classes, dim, seed=0):
    return torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def polygon(num):
    angle = 2 * math.pi * torch.arange(num, dtype=torch.float64) / num
    return torch.stack([angle.cos(), angle.sin()], 1)


def quadratic_program(unit, k):
    """The definition as a quadratic program for a solver that knows nothing of it."""
    others = torch.cat([unit[:k], unit[k + 1:]]).numpy()
    start = torch.full((len(others), ), 1 / len(others), dtype=torch.float64).numpy()
    result = optimize.minimize(
        lambda u: ((unit[k].numpy() - u @ others)**2).sum(), start,
        jac=lambda u: -2 * others @ (unit[k].numpy() - u @ others), bounds=[(0, 1)] * len(others),
        constraints=dict(type='eq', fun=lambda u: u.sum() - 1), method='SLSQP', options=dict(maxiter=500, ftol=1e-15))
    return math.sqrt(result.fun)


@pytest.mark.parametrize('num_classes, dim', [(5, 3), (7, 2), (12, 6), (20, 10)])
def test_it_is_the_distance_to_the_hull(num_classes, dim):
    code = rows(num_classes, dim)
    unit = code / code.norm(dim=1, keepdim=True)
    expected = [quadratic_program(unit, k) for k in range(num_classes)]
    lower, upper, argmin = one_vs_rest_distance(3 * code)
    assert lower <= upper + 1e-12 and upper - lower < 1e-9
    assert lower == pytest.approx(min(expected), abs=1e-6)
    if upper > 1e-6:
        assert argmin == min(range(num_classes), key=expected.__getitem__)


@pytest.mark.parametrize('code, distance', [
    (polygon(8), 1 - math.cos(math.pi / 4)),
    (polygon(4), 1.0),
    (simplex_etf(5, 4), 1.25),
    (simplex_etf(10, 64), 10 / 9),
    (torch.cat([torch.eye(6), -torch.eye(6)]).double(), 1.0),
    (softmax_code(16, 5), 0.8),  # on these three scipy's nnls is wrong
    (softmax_code(27, 6), 0.75),
    (softmax_code(56, 7), 2 / 3),
    (softmax_code(240, 8), 0.5),
    (torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 0.0),  # two that are equal
    (torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 2.0),
])
def test_closed_forms_and_every_row_has_a_certificate(code, distance):
    result = one_vs_rest_distance(code)
    assert isinstance(result, OneVsRestDistance)
    assert result.lower == pytest.approx(distance, abs=1e-9) and result.upper == pytest.approx(distance, abs=1e-9)
    unit = code.double().numpy()
    for k in range(0, len(code), max(1, len(code) // 8)):
        low, high = module._row_distance(unit, k)
        assert high - low < 1e-9 and high >= result.lower - 1e-12


def test_a_row_inside_the_hull_has_distance_zero():
    code = torch.cat([simplex_etf(4, 3), simplex_etf(4, 3)[:1]])
    lower, upper, argmin = one_vs_rest_distance(code)
    assert lower == 0 and upper < 1e-12 and argmin in (0, 4)


def test_rows_beyond_the_nearest_ones_count(monkeypatch):
    # 90 rows close to the first on one side; what holds it on the other side is far down in the order of cosines
    generator = torch.Generator().manual_seed(1)
    cloud = torch.tensor([0.8, 0.6, 0.0]) + 0.01 * torch.randn(90, 3, generator=generator)
    code = torch.cat([torch.tensor([[1.0, 0.0, 0.0]]), cloud, torch.tensor([[0.5, -0.8, 0.33], [0.5, -0.8, -0.33]])])
    unit = (code / code.norm(dim=1, keepdim=True)).double()
    low, high = module._row_distance(unit.numpy(), 0)
    assert high - low < 1e-9
    assert high == pytest.approx(quadratic_program(unit, 0), abs=1e-6)


def test_lower_bounds_hold_for_any_directions_and_in_blocks(monkeypatch):
    code = rows(50, 5)
    unit = code / code.norm(dim=1, keepdim=True)
    exact = torch.tensor([module._row_distance(unit.numpy(), k)[1] for k in range(50)])
    own = one_vs_rest_lower_bounds(code)
    cosine = (unit @ unit.T).fill_diagonal_(-2)
    torch.testing.assert_close(own, 1 - cosine.amax(1))
    for directions in (None, rows(50, 5, seed=1), unit - unit.mean(0)):
        assert (one_vs_rest_lower_bounds(code, directions) <= exact + 1e-12).all()
    for block in (7, 50):
        monkeypatch.setattr(geometry, 'BLOCK', block)
        torch.testing.assert_close(one_vs_rest_lower_bounds(code), own, rtol=0, atol=1e-14)
    assert one_vs_rest_lower_bounds(code.float()).dtype == torch.float32


def test_bad_input():
    for code, match in [(torch.zeros(1, 3), r'\(K, d\) with K >= 2'), (torch.zeros(4), r'\(K, d\)'),
                        (torch.tensor([[1.0, math.nan], [0.0, 1.0]]), 'finite entries in `code`, but 1'),
                        (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 'directions in `code`, but 1 rows are zero')]:
        with pytest.raises(ValueError, match=match):
            one_vs_rest_distance(code)
    with pytest.raises(ValueError, match=r'`directions` of the shape of the code, \(4, 3\), but got \(3, 3\)'):
        one_vs_rest_lower_bounds(simplex_etf(4, 3), simplex_etf(4, 3)[:3])
    with pytest.raises(ValueError, match='`tolerance` to be at least 0, but got -1'):
        one_vs_rest_distance(simplex_etf(4, 3), tolerance=-1)
