"""The block form against full matrices."""
import numpy as np
import pytest
from scipy.special import logsumexp

from allnc_mm.theory.blocks import (
    Blocks,
    check_counts,
    cross_entropy,
    cross_entropy_columns,
    grouped,
    slopes,
    two_groups,
)

COUNTS = np.array([7.0, 7, 7, 3, 2, 2])


@pytest.fixture
def blocks():
    """Three groups, one of them a single class; columns sum to zero."""
    group, sizes, _ = grouped(COUNTS)
    generator = np.random.default_rng(0)
    core = generator.normal(size=(3, 3))
    direction = np.sqrt(sizes / sizes.sum())
    return Blocks(group, np.array([2.0, 0.0, 0.7]), core - np.outer(direction, direction @ core))


def naive_losses(logits):
    return logsumexp(logits, axis=0) - logits.diagonal()


def test_norm_factors_and_columns_are_those_of_the_full_matrix(blocks):
    logits = blocks.matrix()
    assert np.abs(logits.sum(0)).max() < 1e-14
    assert blocks.nuclear_norm() == pytest.approx(np.linalg.svd(logits, compute_uv=False).sum(), rel=1e-13)
    left, right = blocks.factors()
    np.testing.assert_allclose(left @ right.T, logits, atol=1e-14)
    np.testing.assert_allclose(left.T @ left, right.T @ right, atol=1e-14)


def test_cross_entropy_and_its_gradient_are_those_of_the_full_matrix(blocks):
    logits = blocks.matrix()
    bias = np.array([0.3, -0.2, 0.5])
    for used, shift in ((None, 0), (bias, bias[blocks.group][:, None])):
        log_losses, log_wrong, log_single = cross_entropy(blocks.sizes, blocks.scalars, blocks.core, used)
        np.testing.assert_allclose(np.exp(log_losses)[blocks.group], naive_losses(logits + shift), rtol=1e-13)
    # the gradient of sum_g omega_g CE_g, whose matrix is (p - e) omega
    omega = np.array([0.5, 2.0, 1.5])
    log_losses, log_wrong, log_single = cross_entropy(blocks.sizes, blocks.scalars, blocks.core)
    scalars, core = slopes(blocks.sizes, np.exp(log_wrong) * omega, np.exp(log_single) * omega)
    matrix = (np.exp(logits) / np.exp(logits).sum(0) - np.eye(6)) * omega[blocks.group]
    np.testing.assert_allclose(Blocks(blocks.group, scalars, core).matrix(), matrix, atol=1e-14)


def test_losses_far_below_rounding():
    sizes = np.array([2, 3])
    direction = np.outer([1, 1], [1.0, 1]) * np.sqrt(np.outer(sizes, sizes)) / 5
    log_losses, _, _ = cross_entropy(sizes, np.full(2, 5000.0), 5000 * (np.eye(2) - direction))
    np.testing.assert_allclose(log_losses, np.log(4) - 5000, rtol=1e-12)  # margin 5000, four others


def test_columns_against_finite_differences_and_at_huge_logits():
    generator = np.random.default_rng(1)
    logits, labels = 3 * generator.normal(size=(4, 6)), np.array([0, 1, 2, 3, 0, 1])
    value, gradient = cross_entropy_columns(logits.copy(), labels)
    mean = lambda z: np.log((logsumexp(z, axis=0) - z[labels, np.arange(6)]).mean())
    assert value == pytest.approx(mean(logits), rel=1e-13)
    for place in ((0, 0), (2, 3), (3, 5)):
        step = np.zeros_like(logits)
        step[place] = 1e-6
        assert gradient[place] == pytest.approx((mean(logits + step) - mean(logits - step)) / 2e-6, abs=1e-8)
    value, gradient = cross_entropy_columns(1e5 * np.eye(4)[:, labels], labels)
    assert value == pytest.approx(np.log(3) - 1e5)
    assert gradient[0, 0] == pytest.approx(-1 / 6) and gradient[1, 0] == pytest.approx(1 / 18)


def test_bad_counts_are_named():
    with pytest.raises(ValueError, match='at least two classes'):
        check_counts([5])
    with pytest.raises(ValueError, match='positive and finite, but got 0 to 5'):
        check_counts([5, 0])
    with pytest.raises(ValueError, match='`num_tail` to be a positive number of classes, but got 0'):
        two_groups(2, 0, 3)
    with pytest.raises(ValueError, match='at least 1, but got 0.5; swap the groups'):
        two_groups(2, 2, 0.5)
