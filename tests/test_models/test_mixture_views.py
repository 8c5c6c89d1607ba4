import numpy as np
import pytest
import torch

from allnc_mm.models import MixtureViews
from allnc_mm.registry import MODELS

B, K, SIZE = 4, 6, 12


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    np.random.seed(0)


def bilateral(num_views):
    """Each pixel of row r is 100 r + its channel / 10 + its position / 1000: what it is made of can be read off."""
    rows = torch.arange(num_views * 2 * B).view(-1, 1, 1, 1) * 100.0
    position = torch.arange(SIZE * SIZE).view(1, 1, SIZE, SIZE) / 1000
    images = rows + torch.arange(3).view(1, 3, 1, 1) / 10 + position
    labels = torch.tensor([0, 1, 2, 3, 5, 4, 3, 3]).repeat(num_views)
    return images, labels


def recompute(images, labels, mixed, soft, method, v):
    """Check one view against pixels and labels of its parents; returns the share of the natural samples."""
    shares = []
    for i in range(B):
        natural, partner = v * 2 * B + i, v * 2 * B + B + i
        if method == 'mixup':
            share = ((mixed[i] - images[partner]) / (images[natural] - images[partner])).double()
            assert share.max() - share.min() < 1e-3  # one share for all pixels
            share = share.mean().item()
        else:
            mine = (mixed[i] == images[natural]).all(0)
            assert ((mixed[i] == images[partner]).all(0) | mine).all()
            box = ~mine
            if box.any():
                rows, columns = (box.any(d).nonzero().flatten() for d in (1, 0))
                filled = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
                assert filled == box.sum()  # a rectangle
            share = mine.double().mean().item()
        expected = np.zeros(K)
        expected[labels[natural]] += share
        expected[labels[partner]] += 1 - share
        np.testing.assert_allclose(soft[i], expected, atol=1e-4)
        shares.append(share)
    assert max(shares) - min(shares) < 1e-3
    return share


@pytest.mark.parametrize('methods', [('mixup', ), ('cutmix', ), ('mixup', 'cutmix'), ('cutmix', 'mixup')])
@pytest.mark.parametrize('num_views', [1, 2, 3])
def test_pixels_and_labels(num_views, methods):
    mixture = MODELS.build(dict(type='MixtureViews', methods=list(methods)))
    seen = set()
    for _ in range(20):
        images, labels = bilateral(num_views)
        before = images.clone()
        mixed, soft = mixture(images, labels, num_views, K)
        assert mixed.shape == (num_views * B, 3, SIZE, SIZE) and soft.shape == (num_views * B, K)
        assert torch.equal(images, before)  # the inputs are left alone
        torch.testing.assert_close(soft.sum(1), torch.ones(num_views * B))
        shares = []
        for v in range(num_views):
            rows = slice(v * B, (v + 1) * B)
            method = methods[v % len(methods)]
            if num_views == 1:
                natural, partner = images[:B], images[B:]
                pasted = ((mixed == natural) | (mixed == partner)).all(1).all()
                method = 'cutmix' if pasted else 'mixup'
                seen.add(method)
            shares.append(recompute(images, labels, mixed[rows], soft[rows], method, v))
        assert max(shares) - min(shares) < 1e-3  # views share their mixture, so also their labels
        assert all(torch.equal(soft[:B], soft[v * B:(v + 1) * B]) for v in range(num_views))
    if num_views == 1:
        assert seen == set(methods)


def test_soft_labels_in():
    images, labels = bilateral(1)
    soft = torch.rand(2 * B, K).softmax(1)
    state = np.random.get_state()
    mixed, out = MixtureViews(methods=['mixup'])(images, soft, 1, K)
    np.random.set_state(state)
    again, hard = MixtureViews(methods=['mixup'])(images, labels, 1, K)
    assert torch.equal(mixed, again)
    share = hard[0, 0]  # natural class 0, partner class 5
    torch.testing.assert_close(out, share * soft[:B] + (1 - share) * soft[B:])


def test_the_stream_is_numpys_and_reproducible():
    results = []
    for _ in range(2):
        np.random.seed(3)
        images, labels = bilateral(2)
        results.append([MixtureViews()(images, labels, 2, K)[1] for _ in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(*results))
    assert not torch.equal(results[0][0], results[0][1])


@pytest.mark.parametrize('alpha', [0.4, 1.0])
@pytest.mark.parametrize('methods, num_views', [(('mixup', ), 2), (('cutmix', ), 1), (('mixup', 'cutmix'), 1),
                                                (('mixup', 'cutmix'), 2)])
def test_expected_share_of_the_natural_sample(methods, num_views, alpha):
    """CutMix keeps more than half: the border clips its boxes."""
    mixture = MixtureViews(alpha, methods)
    images = torch.zeros(num_views * 2, 1, 64, 64)  # large: the formula knows no whole pixels
    labels = torch.tensor([0, 1] * num_views)
    shares = [mixture(images, labels, num_views, 2)[1][0, 0].item() for _ in range(4000)]
    error = np.std(shares) / np.sqrt(len(shares))
    assert mixture.natural_share(num_views) == pytest.approx(np.mean(shares), abs=4 * error + 0.01)
    assert (mixture.natural_share(num_views) == 0.5) == (methods == ('mixup', ))


def test_channels_last_goes_through():
    images, labels = bilateral(2)
    mixed, _ = MixtureViews()(images.contiguous(memory_format=torch.channels_last), labels, 2, K)
    assert mixed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('settings, message', [
    (dict(alpha=0), 'Expected `alpha` to be positive, but got 0; 1 is uniform; remove `mixture`'),
    (dict(alpha=float('nan')), 'Expected `alpha`'),
    (dict(methods=[]), "Expected `methods` among 'mixup' and 'cutmix'"),
    (dict(methods=['mixup', 'cutout']), "Expected `methods` among.*cutout"),
])
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        MixtureViews(**settings)
