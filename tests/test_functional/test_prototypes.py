import numpy as np
import pytest
import torch

from allnc_mm.functional import class_means, class_statistics, ema_class_statistics, one_hot, straight_through


def naive_statistics(features, labels, num_classes):
    """A loop in float64 over samples and classes."""
    sums, counts = np.zeros((num_classes, features.shape[1])), np.zeros(num_classes)
    for i, row in enumerate(features.double().tolist()):
        for k in range(num_classes):
            share = float(labels[i, k]) if labels.ndim == 2 else float(labels[i] == k)
            sums[k] += share * np.array(row)
            counts[k] += share
    return sums, counts


def data(soft, n=23, d=5, num_classes=7, seed=0):
    """Class 3 is absent, class 6 has one sample."""
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=rng)
    hard = torch.tensor([0, 1, 2, 4, 5])[torch.randint(5, (n, ), generator=rng)]
    hard[7] = 6
    if not soft:
        return features, hard
    labels = torch.zeros(n, num_classes)
    share = torch.rand(n, 1, generator=rng)
    labels.scatter_(1, hard[:, None], share)
    return features, labels + (1 - share) * one_hot(hard.roll(1), num_classes)


@pytest.mark.parametrize('soft', [False, True])
def test_statistics_and_means_against_a_loop(soft):
    features, labels = data(soft)
    sums, counts = class_statistics(features, labels, 7)
    expected_sums, expected_counts = naive_statistics(features, labels, 7)
    np.testing.assert_allclose(sums, expected_sums, atol=1e-5)
    np.testing.assert_allclose(counts, expected_counts, atol=1e-6)

    means, again = class_means(features, labels, 7)
    assert torch.equal(again, counts)
    for k in range(7):
        if k == 3:
            assert counts[k] == 0 and not means[k].any()
        else:
            np.testing.assert_allclose(means[k], expected_sums[k] / expected_counts[k], atol=1e-5)
    if not soft:
        assert torch.equal(means[6], features[7])  # a single sample is its own mean


@pytest.mark.parametrize('soft', [False, True])
def test_gradient_of_a_mean_is_its_share_and_absent_classes_have_none(soft):
    features, labels = data(soft)
    features.requires_grad_()
    means, counts = class_means(features, labels, 7)
    for k in range(7):
        grad, = torch.autograd.grad(means[k].sum(), features, retain_graph=True)
        share = one_hot(labels, 7)[:, k] / counts[k] if counts[k] else torch.zeros(len(features))
        torch.testing.assert_close(grad, share[:, None].expand_as(grad))


@pytest.mark.parametrize('soft', [False, True])
def test_half_precision_features_give_float32(soft):
    features, labels = data(soft)
    low = features.bfloat16()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        means, counts = class_means(low, labels, 7)
    assert means.dtype == counts.dtype == torch.float32
    sums, number = naive_statistics(low, labels, 7)
    np.testing.assert_allclose(means, sums / np.maximum(number, 1e-9)[:, None], atol=1e-5)  # not rounded to bfloat16


def test_no_samples_at_all():
    means, counts = class_means(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 3)
    assert means.shape == (3, 4) and not means.any() and not counts.any()


def test_one_hot():
    assert one_hot(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    soft = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    assert one_hot(soft, 2).dtype == torch.float32 and one_hot(soft, 2).tolist() == soft.tolist()


def naive_ema(batches, num_classes, d, momentum):
    """Geometric weights over the batches that hold a class; the others are not there for it."""
    sums, counts = np.zeros((num_classes, d)), np.zeros(num_classes)
    for k in range(num_classes):
        statistics = [naive_statistics(x, y, num_classes) for x, y in batches]
        seen = [(s[k], n[k]) for s, n in statistics if n[k] > 0]
        for age, (s, n) in enumerate(reversed(seen)):
            sums[k] += (1 - momentum) * momentum**age * s
            counts[k] += (1 - momentum) * momentum**age * n
    return sums, counts


@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('momentum', [0.0, 0.5, 0.9])
def test_ema_against_its_geometric_sum(soft, momentum):
    batches = [data(soft, seed=seed) for seed in range(4)]
    batches[1][1].data[batches[1][1] == 5] = 0 if not soft else 0.0  # class 5 misses a batch
    sums, counts = torch.zeros(7, 5), torch.zeros(7)
    for features, labels in batches:
        sums, counts = ema_class_statistics(sums, counts, *class_statistics(features, labels, 7), momentum)
    expected_sums, expected_counts = naive_ema(batches, 7, 5, momentum)
    np.testing.assert_allclose(sums, expected_sums, atol=1e-5)
    np.testing.assert_allclose(counts, expected_counts, atol=1e-5)
    assert counts[3] == 0


def test_absent_class_does_not_decay():
    sums, counts = torch.tensor([[2.0, 4.0], [1.0, 1.0]]), torch.tensor([2.0, 1.0])
    batch = torch.tensor([[0.0, 0.0], [3.0, 3.0]]), torch.tensor([0.0, 1.0])
    for _ in range(1000):
        sums, counts = ema_class_statistics(sums, counts, *batch, 0.9)
    assert sums[0].tolist() == [2.0, 4.0] and counts[0] == 2.0
    torch.testing.assert_close(sums[1] / counts[1], torch.tensor([3.0, 3.0]))


def test_a_batch_weighs_by_its_evidence():
    """A sample that belongs to the class with weight .02 hardly moves the mean; fifty whole ones do."""
    old = torch.ones(1, 1), torch.ones(1)
    faint = ema_class_statistics(*old, torch.tensor([[0.02 * 9]]), torch.tensor([0.02]), 0.9)
    strong = ema_class_statistics(*old, torch.tensor([[50 * 9.0]]), torch.tensor([50.0]), 0.9)
    assert (faint[0] / faint[1]).item() == pytest.approx((0.9 + 0.1 * 0.18) / (0.9 + 0.1 * 0.02), rel=1e-6)
    assert (faint[0] / faint[1]).item() < 1.02
    assert (strong[0] / strong[1]).item() > 7


def test_straight_through():
    x = torch.tensor([3.0, -1.0], requires_grad=True)
    value = torch.tensor([10.0, 20.0], requires_grad=True)
    out = straight_through(value, x.square())
    assert torch.equal(out, value)
    out.sum().backward()
    assert x.grad.tolist() == [6.0, -2.0] and value.grad is None


@pytest.mark.parametrize('names', [(), ('features', 'labels', 'num_classes')])
def test_full_precision_on_the_device_of_any_argument(names, monkeypatch):
    """The device of the inputs, positional or by keyword, is the one whose autocast is switched off."""
    devices, autocast = [], torch.autocast
    monkeypatch.setattr(torch, 'autocast', lambda device, **kwargs: devices.append(device) or autocast('cpu', **kwargs))
    arguments = torch.zeros(3, 2, device='meta'), torch.zeros(3, 4, device='meta'), 4
    class_statistics(*arguments) if not names else class_statistics(**dict(zip(names, arguments)))
    assert devices == ['meta']
