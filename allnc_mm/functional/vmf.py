"""Von Mises-Fisher distributions of features on the sphere: what probabilistic contrastive learning needs of them."""
import torch
from torch import Tensor

from .prototypes import full_precision

__all__ = ['vmf_concentration', 'vmf_log_expectation']

MIN_DIM = 16  # the asymptotic series of the Bessel function is for large orders


def vmf_concentration(mean: Tensor, max_value: float = 1e5) -> Tensor:
    r"""Concentration of the von Mises-Fisher distribution from the mean of unit vectors.

    .. math::
        \kappa = \frac{d R}{1 - R^2}, \qquad R = |\bar z|

    the approximate maximum-likelihood estimate that ProCo uses (`arXiv:2403.06726
    <https://arxiv.org/abs/2403.06726>`_).

    Args:
        mean (Tensor): Means of unit vectors, shape (..., d).
        max_value (float): Bound, reached by a class of equal vectors. Defaults to 1e5.

    Returns:
        Tensor: Shape (...), float32.

    Example:
        >>> vmf_concentration(torch.tensor([0.0, 0.5])).item()  # 2 x .5 / .75
        1.3333333730697632
    """
    length = torch.linalg.vector_norm(mean.float(), dim=-1)
    kappa = mean.shape[-1] * length / (1 - length.square()).clamp_min(1e-12)
    return kappa.clamp_max(max_value)


@full_precision
def vmf_log_expectation(features: Tensor, direction: Tensor, concentration: Tensor, temperature: float = 0.1) -> Tensor:
    r"""Logarithm of the expectation of exp(z . x / tau) for x from a von Mises-Fisher distribution of each class.

    .. math::
        \log E_{x \sim vMF(\mu_k, \kappa_k)} e^{z \cdot x / \tau}
            = \log \frac{I_\nu(\tilde\kappa) \tilde\kappa^{-\nu}}{I_\nu(\kappa_k) \kappa_k^{-\nu}}, \qquad
        \tilde\kappa = |\kappa_k \mu_k + z / \tau|, \quad \nu = d/2 - 1

    It is what the similarity to a class comes to with infinitely many samples of it (ProCo, `arXiv:2403.06726
    <https://arxiv.org/abs/2403.06726>`_). The Bessel function is taken from its uniform expansion for large orders
    (DLMF 10.41.3, four terms; error 1e-6 at d = 16, 1e-10 at d = 128), and the ratio is formed from differences that do
    not cancel, so float32 suffices for every concentration. There are no tensors of shape (N, K, d).

    Args:
        features (Tensor): z, unit rows, shape (N, d) with d >= 16.
        direction (Tensor): mu_k, unit rows, shape (K, d).
        concentration (Tensor): kappa_k >= 0, shape (K,).
        temperature (float): tau. Defaults to 0.1.

    Returns:
        Tensor: Shape (N, K), float32.

    Raises:
        ValueError: for d < 16.

    Example:
        >>> z = torch.eye(16)[:1]
        >>> round(vmf_log_expectation(z, z, torch.tensor([1e5])).item(), 2)  # a point: z . mu / tau
        10.0
    """
    dim = features.shape[1]
    if dim < MIN_DIM:
        raise ValueError(f'The von Mises-Fisher expectation needs features of at least {MIN_DIM} dimensions, but got '
                         f'{dim}; widen the projector.')
    nu = dim / 2 - 1
    features, direction, kappa = features.float(), direction.float(), concentration.float()
    dot = features @ direction.T / temperature
    # With s = sqrt(1 + (kappa / nu)^2), log I_nu(kappa) kappa^-nu = nu (s - log(1 + s)) - log(s) / 2 + log(series) + c.
    s = (1 + (kappa / nu).square()).sqrt()
    squares = (2 * kappa * dot + 1 / temperature**2) / nu**2  # s~^2 - s^2
    s_new = (s.square() + squares).clamp_min(1.0).sqrt()
    gap = squares / (s_new + s)
    return (nu * (gap - torch.log1p(gap / (1 + s))) - 0.5 * torch.log1p(gap / s)
            + _log_series(1 / s_new, nu) - _log_series(1 / s, nu))


def _log_series(p: Tensor, nu: float) -> Tensor:
    """log sum_k U_k(p) / nu^k of DLMF 10.41.3 with the polynomials of 10.41.10, k up to 4; p in (0, 1]."""
    q = p.square()
    u1 = p * (3 - 5 * q) / 24
    u2 = q * (81 + q * (-462 + 385 * q)) / 1152
    u3 = p * q * (30375 + q * (-369603 + q * (765765 - 425425 * q))) / 414720
    u4 = q * q * (4465125 + q * (-94121676 + q * (349922430 + q * (-446185740 + 185910725 * q)))) / 39813120
    return torch.log1p((u1 + (u2 + (u3 + u4 / nu) / nu) / nu) / nu)
