import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.registry import TRANSFORMS, DefaultScope
from mmpretrain.structures import DataSample

from allnc_mm.models import MultiViewDataPreprocessor
from allnc_mm.registry import MODELS

MEAN, STD = [10.0, 20.0, 30.0], [2.0, 4.0, 8.0]
N, SIZE = 4, 6


@pytest.fixture(autouse=True)
def scope():
    np.random.seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def build(**kwargs):
    return MODELS.build(dict(type='MultiViewDataPreprocessor', mean=MEAN, std=STD, **kwargs))


def images(num_views):
    return [[torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8) for _ in range(num_views)] for _ in range(N)]


def expected(views, to_rgb=False):
    rows = []
    for v in range(len(views[0])):
        for i in range(N):
            image = views[i][v].flip(0) if to_rgb else views[i][v]
            rows.append((image.float() - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])
    return torch.stack(rows)


def samples():
    return [DataSample().set_gt_label(k) for k in (3, 1, 0, 2)]


@pytest.mark.parametrize('to_rgb', [False, True])
@pytest.mark.parametrize('collate', [default_collate, pseudo_collate])
@pytest.mark.parametrize('num_views', [1, 2, 3])
def test_view_major_rows(num_views, collate, to_rgb):
    views = images(num_views)
    data = collate([dict(inputs=v, data_samples=s) for v, s in zip(views, samples())])
    out = build(to_rgb=to_rgb)(data, training=True)
    assert torch.equal(out['inputs'], expected(views, to_rgb))
    assert [s.gt_label.item() for s in out['data_samples']] == [3, 1, 0, 2] * num_views


@pytest.mark.parametrize('collate', [default_collate, pseudo_collate])
def test_single_images_as_in_the_parent(collate):
    views = images(1)
    data = collate([dict(inputs=v[0], data_samples=s) for v, s in zip(views, samples())])
    out = build()(data)
    assert torch.equal(out['inputs'], expected(views)) and len(out['data_samples']) == N


def test_without_annotations():
    out = build()(dict(inputs=[torch.zeros(N, 3, SIZE, SIZE)] * 2))
    assert out['inputs'].shape == (2 * N, 3, SIZE, SIZE) and out['data_samples'] is None


def test_behind_mmpretrains_multi_view_transform():
    crop = dict(type='RandomCrop', crop_size=SIZE, padding=2)
    transforms = [TRANSFORMS.build(t) for t in (dict(type='MultiView', transforms=[[crop]], num_views=[2]),
                                               dict(type='PackInputs'))]
    results = []
    for i in range(N):
        result = dict(img=np.full((SIZE, SIZE, 3), 40 * i + 10, np.uint8), gt_label=i, img_shape=(SIZE, SIZE))
        for transform in transforms:
            result = transform(result)
        results.append(result)
    out = build()(default_collate(results), training=True)
    plain = out['inputs'] * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert plain.amax((1, 2, 3)).round().tolist() == [10, 50, 90, 130] * 2  # padding is black
    assert [s.gt_label.item() for s in out['data_samples']] == [0, 1, 2, 3] * 2
    assert not torch.equal(plain[:N], plain[N:])  # each view has its own crop


def test_channels_last():
    views = images(2)
    data = default_collate([dict(inputs=v) for v in views])
    out = build(channels_last=True)(data)['inputs']
    assert out.is_contiguous(memory_format=torch.channels_last) and torch.equal(out, expected(views))
    # and inputs that arrive in another layout are no problem without it
    arrived = torch.stack([v[0] for v in views]).to(memory_format=torch.channels_last)
    assert torch.equal(build()(dict(inputs=arrived))['inputs'], expected([v[:1] for v in views]))


def test_batch_augmentation_labels_each_row_by_itself():
    grey = torch.ones(3, SIZE, SIZE, dtype=torch.uint8)
    views = [[grey * (100 * v + 10 * i) for v in (1, 2)] for i in range(N)]
    data = default_collate([dict(inputs=v, data_samples=s) for v, s in zip(views, samples())])
    augments = dict(augments=[dict(type='Mixup', alpha=1.0)])
    out = MultiViewDataPreprocessor(num_classes=N, batch_augments=augments)(data, training=True)
    value_of_class = {k: 10 * i for i, k in enumerate((3, 1, 0, 2))}
    for row, (image, sample) in enumerate(zip(out['inputs'], out['data_samples'])):
        own = sum(score.item() * value_of_class[k] for k, score in enumerate(sample.gt_score))
        base = (image.mean().item() - own) / 100  # 1, 2 or between: the views that were mixed
        assert sample.gt_score.sum().item() == pytest.approx(1)
        assert 1 - 1e-4 <= base <= 2 + 1e-4, row


def test_batch_augmentation_of_the_first_views_alone():
    grey = torch.ones(3, SIZE, SIZE, dtype=torch.uint8)
    views = [[grey * (100 * v + 10 * i) for v in (0, 1)] for i in range(N)]
    augments = dict(augments=[dict(type='Mixup', alpha=1.0)])
    model = MultiViewDataPreprocessor(num_classes=N, batch_augments=augments, mixed_views=1)
    value_of_class = {k: 10 * i for i, k in enumerate((3, 1, 0, 2))}
    torch.manual_seed(0)
    for collate in (default_collate, pseudo_collate):
        data = collate([dict(inputs=v, data_samples=s) for v, s in zip(views, samples())])
        out = model(data, training=True)
        means = out['inputs'].mean((1, 2, 3))
        assert means[N:].tolist() == pytest.approx([100, 110, 120, 130])
        assert [s.gt_label.item() for s in out['data_samples']] == [3, 1, 0, 2] * 2
        assert ['gt_score' in s for s in out['data_samples']] == [True] * N + [False] * N
        for mean, sample in zip(means, out['data_samples'][:N]):  # the image has the shares that its label tells
            own = sum(score.item() * value_of_class[k] for k, score in enumerate(sample.gt_score))
            assert mean.item() == pytest.approx(own, abs=1e-3)
        assert any(sample.gt_score.max() < 1 for sample in out['data_samples'][:N])
        assert model(data)['inputs'].mean((1, 2, 3))[:N].tolist() == pytest.approx([0, 10, 20, 30])  # not in a test


def test_mixed_views_without_a_batch_augmentation_change_nothing():
    views = images(2)
    assert torch.equal(build(mixed_views=1)(default_collate([dict(inputs=v) for v in views]), True)['inputs'],
                       expected(views))
    with pytest.raises(ValueError, match='`mixed_views` >= 1, but got 0; .*augments'):
        build(mixed_views=0)
