import numpy as np
import pytest
import torch
from scipy.special import ive

from allnc_mm.functional.geometry import unit_rows
from allnc_mm.functional.vmf import vmf_concentration, vmf_log_expectation


def unit(*shape, seed=0):
    return unit_rows(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def reference(z, mu, kappa, tau):
    """Log ratio of the normalisers by scipy's Bessel function, in float64."""
    z, mu, kappa = (x.double().numpy() for x in (z, mu, kappa))
    nu = z.shape[1] / 2 - 1
    new = np.linalg.norm(kappa[None, :, None] * mu[None] + z[:, None] / tau, axis=2)
    log = lambda x: np.log(ive(nu, x)) + x - nu * np.log(x)
    return torch.from_numpy(log(new) - log(kappa)[None])


@pytest.mark.parametrize('dim', [16, 64, 128])
def test_against_scipy(dim):
    z, mu = unit(20, dim), unit(30, dim, seed=1)
    mu[0], mu[1] = z[0], -z[0]
    kappa = torch.logspace(-1, 5, 30)
    kappa[1] = 10.0  # kappa mu + z / tau vanishes for the first feature
    expected = reference(z, mu, kappa, 0.1)
    finite = expected.isfinite()  # scipy has log(0) there, and underflows in high dimensions
    assert finite.double().mean() > 0.99
    found = vmf_log_expectation(z, mu, kappa, 0.1)
    assert found.dtype == torch.float32 and found.isfinite().all()
    torch.testing.assert_close(found.double()[finite], expected[finite], rtol=1e-5, atol=1e-5)


def test_gradient_is_the_ratio_of_bessel_functions():
    """d/dz = (I_{nu+1} / I_nu)(k~) (k mu + z / tau) / (k~ tau), also for very concentrated classes."""
    z, mu, kappa, tau = unit(4, 64), unit(5, 64, seed=1), torch.tensor([1.0, 20.0, 300.0, 1e4, 1e5]), 0.1
    x = z.clone().requires_grad_()
    # the vector of the formula, orthogonal to nothing: the feature is free, so compare on the tangent of the sphere
    gradient = torch.stack([torch.autograd.grad(vmf_log_expectation(x, mu, kappa, tau)[:, k].sum(), x,
                                                retain_graph=True)[0] for k in range(5)])
    new = kappa.double()[None, :, None] * mu[None] + z[:, None] / tau
    length = new.norm(dim=2).numpy()
    ratio = torch.from_numpy(ive(32, length) / ive(31, length) / length)[..., None]
    expected = (ratio * new / tau).transpose(0, 1)

    def tangent(g):
        return g - (g * z).sum(-1, keepdim=True) * z

    torch.testing.assert_close(tangent(gradient), tangent(expected), rtol=1e-4, atol=1e-5)


def test_limits():
    z, mu = unit(3, 32), unit(4, 32, seed=1)
    point = vmf_log_expectation(z, mu, torch.full((4, ), 1e5), 0.1)
    torch.testing.assert_close(point.double(), z @ mu.T / 0.1, rtol=0, atol=0.02)
    uniform = vmf_log_expectation(z, mu, torch.zeros(4), 0.1)
    torch.testing.assert_close(uniform, uniform[0, 0].expand(3, 4))  # no direction is special


def test_expectation_is_that_of_samples():
    """Monte Carlo: uniform samples weighted by exp(kappa mu x)."""
    z, mu, kappa = unit(1, 16), unit(1, 16, seed=1), 4.0
    x = unit(400_000, 16, seed=2)
    weight = (kappa * x @ mu[0]).exp()
    expected = ((weight * (x @ z[0] / 0.5).exp()).sum() / weight.sum()).log()
    found = vmf_log_expectation(z, mu, torch.tensor([kappa]), 0.5)
    assert found.item() == pytest.approx(expected.item(), abs=0.01)


def test_concentration():
    mean = torch.stack([0.5 * unit(1, 128)[0], unit(1, 128)[0], torch.zeros(128)])
    kappa = vmf_concentration(mean)
    torch.testing.assert_close(kappa, torch.tensor([128 * 0.5 / 0.75, 1e5, 0.0]))


def test_low_dimensions_are_refused():
    with pytest.raises(ValueError, match='at least 16 dimensions, but got 8; widen'):
        vmf_log_expectation(unit(1, 8), unit(1, 8), torch.ones(1))
