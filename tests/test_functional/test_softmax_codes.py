"""Softmax codes: what is known in closed form is met, and the search reaches the published optima."""
import math

import pytest
import torch

from allnc_mm.functional import (
    exact_code,
    geometry,
    max_cosine,
    one_vs_rest_bounds,
    one_vs_rest_distance,
    rattlers,
    refine_code,
    softmax_code,
    softmax_codes,
    structured_code,
    tammes_distance,
    tammes_upper_bound,
)
from allnc_mm.functional.structured_codes import _SHARP, structured_codes


def degrees(code):
    return math.degrees(math.acos(max_cosine(code)))


# Tammes' problem in three dimensions, the angles of Cohn's table (cohn.mit.edu/spherical-codes).
@pytest.mark.parametrize('num_classes, angle', [(7, 77.8695), (8, 74.8585), (9, 70.5288), (10, 66.1468), (11, 63.4349),
                                                (12, 63.4349), (24, 43.6908)])
def test_the_search_finds_the_best_known_codes_on_the_sphere(num_classes, angle):
    code = softmax_code(num_classes, 3, hops=8)
    assert degrees(code) == pytest.approx(angle, abs=1e-3)
    lower, upper, _ = one_vs_rest_distance(code)
    assert upper - lower < 1e-9 and lower == pytest.approx(1 - math.cos(math.radians(angle)), abs=2e-5)


@pytest.mark.parametrize('num_classes, dim, rho', [(12, 3, 1 - 5**-0.5), (120, 4, 1 - math.cos(math.radians(36))),
                                                   (16, 5, 0.8), (27, 6, 0.75), (56, 7, 2 / 3), (24, 4, 0.5),
                                                   (8, 2, 1 - math.cos(math.pi / 4)), (5, 3, 1.0), (8, 5, 1.0),
                                                   (20, 10, 1.0), (11, 10, 1.1), (100, 22, 10 / 11)])
def test_codes_in_closed_form(num_classes, dim, rho):
    code = exact_code(num_classes, dim)
    assert code.shape == (num_classes, dim)
    torch.testing.assert_close(code.norm(dim=1), torch.ones(num_classes, dtype=torch.float64))
    lower, upper, _ = one_vs_rest_distance(code)
    assert lower == pytest.approx(rho, abs=1e-9) and upper == pytest.approx(rho, abs=1e-9)
    assert torch.equal(code, softmax_code(num_classes, dim))
    other = exact_code(num_classes, dim, seed=1)  # another orientation of the same code
    assert not torch.allclose(other, code)
    torch.testing.assert_close(other @ other.T, code @ code.T)
    low, high = one_vs_rest_bounds(num_classes, dim)
    assert low <= rho + 1e-9 and rho <= high + 1e-9


@pytest.mark.parametrize('size', [size for size in _SHARP if size[1] < 1000])
def test_sharp_configurations_have_the_cosine_they_claim(size):
    code = softmax_code(size[1], size[0])
    assert max_cosine(code) == pytest.approx(_SHARP[size].max_cosine, abs=1e-9)
    assert tammes_distance(code)**2 / 2 <= tammes_upper_bound(size[1], size[0]) + 1e-9
    assert not rattlers(code).any()


@pytest.mark.parametrize('num_classes, dim', [(100, 20), (100, 10), (200, 30), (300, 16), (257, 64), (1000, 128),
                                              (50, 5), (3000, 256)])
def test_structured_codes_have_the_cosine_they_claim(num_classes, dim):
    known = structured_code(num_classes, dim)
    if known is None:
        assert not list(structured_codes(num_classes, dim))
        return
    name, code = known
    best = min(structured_codes(num_classes, dim), key=lambda c: c.max_cosine)
    assert name == best.name and max_cosine(code) <= best.max_cosine + 1e-9
    torch.testing.assert_close(code.norm(dim=1), torch.ones(num_classes, dtype=torch.float64))


def test_a_few_seconds_beat_the_published_line():
    code = softmax_code(100, 10, restarts=4, hops=2)
    lower, upper, _ = one_vs_rest_distance(code)
    assert lower > 0.655 and upper - lower < 1e-9  # the authors' solver: .61416
    assert lower >= 1 - max_cosine(code) - 1e-12  # never below the proven bound


def test_the_same_for_the_same_arguments():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = softmax_code(20, 4, restarts=3, hops=2, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert torch.equal(softmax_code(20, 4, restarts=3, hops=2, seed=5), first)
    finally:
        torch.set_num_threads(threads)
    assert softmax_code(20, 4, restarts=1, hops=0, dtype=torch.float32).dtype == torch.float32


def test_gradients_of_the_objectives():
    x = torch.randn(2, 1, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pair = torch.randn(2, 2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for objective, at in ((softmax_codes._tied_objective(4.0), x), (softmax_codes._free_objective(4.0), pair),
                          (softmax_codes._blocked_objective(4.0), x[:1])):
        value, grad = objective(at.clone())
        for index in [(0, 0, 2, 1), (at.shape[0] - 1, at.shape[1] - 1, 5, 0)]:
            shift = torch.zeros_like(at)
            shift[index] = 1e-5
            slope = (objective(at + shift)[0] - objective(at - shift)[0]).sum() / 2e-5
            assert grad[index].item() == pytest.approx(slope.item(), abs=1e-7)


def test_blocked_rows_are_the_same_objective(monkeypatch):
    x = geometry.unit_rows(torch.randn(1, 1, 37, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    expected = softmax_codes._tied_objective(50.0)(x)
    monkeypatch.setattr(softmax_codes, 'BLOCK', 8)
    for found, value in zip(softmax_codes._blocked_objective(50.0)(x), expected):
        torch.testing.assert_close(found, value)


def test_refine_never_gets_worse():
    code = torch.cat([torch.eye(8), -torch.eye(8)])  # optimal: it stays
    assert max_cosine(refine_code(code, steps=5)) <= 1e-6
    rows = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    finer = refine_code(rows, steps=40)
    assert finer.dtype == torch.float32 and max_cosine(finer) < max_cosine(rows) - 0.2


def test_measures_of_a_code():
    square = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, -1.0]])
    assert max_cosine(square) == 0 and tammes_distance(square) == pytest.approx(2**0.5)
    moved = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0]])
    assert rattlers(moved).tolist() == [False, False, True]
    assert tammes_upper_bound(100, 20) == pytest.approx(0.8913, abs=1e-4)
    assert tammes_upper_bound(8142, 2048) == pytest.approx(0.99904, abs=1e-5)
    with pytest.raises(ValueError, match='NaN or infinite'):
        max_cosine(square * math.nan)


def test_large_codes_at_once():
    code = softmax_code(8142, 2048, dtype=torch.float32)
    assert code.shape == (8142, 2048) and code.dtype == torch.float32
    assert 1 - max_cosine(code) >= 0.978


@pytest.mark.parametrize('arguments, match', [
    ((1, 4), 'at least 2'), ((3, 0), '`dim` to be at least 1, but got 0'), ((3, 1), 'a line has only two'),
])
def test_bad_sizes(arguments, match):
    for function in (softmax_code, one_vs_rest_bounds, tammes_upper_bound):
        with pytest.raises(ValueError, match=match):
            function(*arguments)


def test_bad_effort():
    for name in ('restarts', 'hops', 'seconds'):
        with pytest.raises(ValueError, match=f'`{name}` to be at least 0 and finite, but got -1'):
            softmax_code(9, 3, **{name: -1})
