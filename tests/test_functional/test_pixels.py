import pytest
import torch
import torch.nn.functional as F

from allnc_mm.functional import class_means, gather_pixels, sample_pixels


@pytest.fixture
def labels():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 4, (3, 9, 7), generator=generator)  # class 4 never occurs
    maps[1] = 255
    maps[0, 0] = torch.tensor([7, -1, 300, 5, 255, 2, 2])
    maps[2, :2] = 3
    return maps


@pytest.mark.parametrize('cap', [1, 5, 1000])
def test_sample_is_of_each_class_without_replacement(labels, cap):
    torch.manual_seed(cap)
    position, one_hot, share = sample_pixels(labels, 5, cap)
    assert position.shape == share.shape == (5 * cap, ) and one_hot.shape == (5 * cap, 5)
    assert one_hot.dtype == share.dtype == torch.float32
    flat = labels.flatten()
    for k in range(5):
        rows = slice(k * cap, (k + 1) * cap)
        count = int((flat == k).sum())
        valid = one_hot[rows, k] == 1
        assert int(valid.sum()) == min(count, cap) and one_hot[rows].sum() == valid.sum()
        drawn = position[rows][valid]
        assert len(drawn.unique()) == len(drawn) and (flat[drawn] == k).all()
        assert share[rows].sum().item() == pytest.approx(count) and not share[rows][~valid].any()


def test_sample_is_uniform_within_a_class():
    torch.manual_seed(0)
    labels = torch.tensor([[[0, 1, 1, 1], [1, 1, 255, 0]]])
    hits = torch.zeros(8)
    for _ in range(2000):
        hits[sample_pixels(labels, 2, 2).position[2:]] += 1
    expected = 2000 * 2 / 5
    assert hits[[0, 6, 7]].sum() == 0
    assert (hits[1:6] - expected).abs().max() < 5 * expected**0.5


def test_ignored_class_and_nothing_at_all():
    labels = torch.tensor([[[0, 1, 1]]])
    assert sample_pixels(labels, 2, 2, ignore_index=1).labels.sum(0).tolist() == [1, 0]
    nothing = sample_pixels(torch.full((2, 3, 3), 255), 4, 3)
    assert not nothing.labels.any() and not nothing.share.any() and nothing.position.max() < 18
    for bad in (dict(max_pixels=0, num_classes=2), dict(max_pixels=1, num_classes=0)):
        with pytest.raises(ValueError, match='positive'):
            sample_pixels(labels, **bad)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('small', [(5, 3), (9, 7), (1, 1), (12, 2)])
def test_gather_is_interpolation(align_corners, small):
    torch.manual_seed(0)
    features = torch.randn(2, 3, *small, requires_grad=True)
    position = torch.randperm(2 * 9 * 7)[:40]
    expected = F.interpolate(features, (9, 7), mode='bilinear', align_corners=align_corners)
    expected = expected.permute(0, 2, 3, 1).flatten(0, 2)[position]
    found = gather_pixels(features, position, (9, 7), align_corners)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    grads = [torch.autograd.grad((x * weight).sum(), features, retain_graph=True)[0] for x in (found, expected)]
    torch.testing.assert_close(*grads)
    assert gather_pixels(features.bfloat16(), position, (9, 7), align_corners).dtype == torch.float32


def test_weighted_means_are_those_of_all_pixels(labels):
    """Exactly below the cap; above it on average."""
    torch.manual_seed(0)
    features = torch.randn(3, 2, 4, 4)
    everywhere = F.interpolate(features, (9, 7), mode='bilinear').permute(0, 2, 3, 1).flatten(0, 2).double()
    flat = labels.flatten()
    naive = torch.stack([everywhere[flat == k].mean(0) if (flat == k).any() else torch.zeros(2).double()
                         for k in range(5)])

    def means(cap):
        position, one_hot, share = sample_pixels(labels, 5, cap)
        return class_means(gather_pixels(features, position, (9, 7)), one_hot * share[:, None], 5)

    found, counts = means(200)
    torch.testing.assert_close(found.double(), naive, atol=1e-6, rtol=1e-6)
    assert counts.tolist() == [int((flat == k).sum()) for k in range(5)]
    several = torch.stack([means(4)[0] for _ in range(400)]).mean(0).double()
    torch.testing.assert_close(several, naive, atol=0.08, rtol=0)
