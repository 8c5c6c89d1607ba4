import doctest
import math

import pytest
import torch

from allnc_mm.functional import geometry
from allnc_mm.functional.geometry import simplex_cosine, simplex_etf, unit_rows


def naive_etf(num_classes, dim, seed):
    """The definition with the Helmert basis written out, entry by entry."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(dim, num_classes - 1, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    basis = torch.zeros(num_classes, num_classes - 1, dtype=torch.float64)
    for j in range(1, num_classes):
        for i in range(j):
            basis[i, j - 1] = 1 / math.sqrt(j * (j + 1))
        basis[j, j - 1] = -j / math.sqrt(j * (j + 1))
    return math.sqrt(num_classes / (num_classes - 1)) * basis @ q.T


@pytest.mark.parametrize('num_classes, dim', [(2, 1), (2, 7), (3, 2), (5, 4), (5, 5), (10, 64), (100, 99), (100, 128)])
def test_closed_forms(num_classes, dim):
    code = simplex_etf(num_classes, dim)
    assert code.shape == (num_classes, dim) and code.dtype == torch.float64
    gram = (num_classes * torch.eye(num_classes, dtype=torch.float64) - 1) / (num_classes - 1)
    torch.testing.assert_close(code @ code.T, gram, rtol=0, atol=1e-12)
    torch.testing.assert_close(code.sum(dim=0), torch.zeros(dim, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(code, naive_etf(num_classes, dim, 0), rtol=0, atol=1e-12)
    # One-vs-rest distance: the nearest point of the hull of the others is their mean.
    rest = (code.sum(dim=0) - code) / (num_classes - 1)
    torch.testing.assert_close((code - rest).norm(dim=1), torch.full((num_classes, ), num_classes / (num_classes - 1),
                                                                     dtype=torch.float64), rtol=0, atol=1e-12)


def test_cosine():
    assert simplex_cosine(2) == -1
    assert math.degrees(math.acos(simplex_cosine(10))) == pytest.approx(96.379, abs=1e-3)
    code = simplex_etf(7, 20)
    assert (code[0] @ code[4]).item() == pytest.approx(simplex_cosine(7), abs=1e-12)


def test_seed_and_global_random_state():
    state = torch.get_rng_state()
    first = simplex_etf(10, 16, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(123)
    assert torch.equal(first, simplex_etf(10, 16, seed=3))
    assert (first - simplex_etf(10, 16, seed=4)).abs().max() > 0.1


def test_orientation_is_haar():
    # Without the sign fix the diagonal of R has one sign for every seed, and so has the mean of a row's entries.
    rows = torch.stack([simplex_etf(3, 3, seed=seed)[0] for seed in range(400)])
    assert rows.mean(dim=0).abs().max() < 0.12  # 4 standard errors of a unit vector: 4 / sqrt(3 * 400)
    torch.testing.assert_close(rows.T @ rows / 400, torch.eye(3, dtype=torch.float64) / 3, rtol=0, atol=0.08)


def test_type_is_that_of_the_rounded_float64_code():
    code = simplex_etf(10, 32, dtype=torch.float32)
    assert code.dtype == torch.float32
    assert torch.equal(code, simplex_etf(10, 32).float())


def test_memory_stays_linear_in_classes_times_dim(largest_tensor):
    with largest_tensor as largest:
        simplex_etf(60, 59)
    assert 0 < largest.numel <= 60 * 59  # a K x K matrix has 60 * 60


@pytest.mark.parametrize('num_classes', [1, 0, -3])
def test_too_few_classes(num_classes):
    with pytest.raises(ValueError, match=f'`num_classes` to be at least 2, but got {num_classes}'):
        simplex_etf(num_classes, 8)
    with pytest.raises(ValueError, match='at least 2'):
        simplex_cosine(num_classes)


def test_too_many_classes():
    simplex_etf(9, 8)
    with pytest.raises(ValueError, match=r'num_classes=10 needs dim >= 9, but got dim=8.*at least 9.*softmax.*hinge'):
        simplex_etf(10, 8)
    with pytest.raises(ValueError, match='needs dim >= 8141, but got dim=2048'):
        simplex_etf(8142, 2048)


@pytest.mark.parametrize('scale', [1e-30, 1e-6, 1.0, 1e30])
def test_unit_rows_at_any_length(scale):
    direction = torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.stack([row / math.sqrt(sum(v * v for v in row.tolist())) for row in direction])
    x = (scale * direction).float().requires_grad_()
    out = unit_rows(x, eps=1e-31)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-6)
    upstream = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    out.backward(upstream)
    u = expected
    tangential = upstream - (upstream * u).sum(dim=1, keepdim=True) * u
    torch.testing.assert_close(x.grad.double() * scale, tangential / direction.norm(dim=1, keepdim=True), rtol=1e-4,
                               atol=1e-5)


def test_unit_rows_of_zeros():
    x = torch.tensor([[0.0, 0.0], [1e-9, 0.0], [0.0, -2.0]], requires_grad=True)
    out = unit_rows(x)
    assert torch.equal(out, torch.tensor([[0.0, 0.0], [1e-9, 0.0], [0.0, -1.0]]))
    out.sum().backward()
    assert torch.equal(x.grad, torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.5, 0.0]]))


def test_unit_rows_gradcheck():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit_rows, (x, ))


def test_examples():
    result = doctest.testmod(geometry)
    assert result.attempted >= 4 and result.failed == 0
