import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import TRANSFORMS
from scipy import stats

from allnc_mm.datasets import DigitsLT
from allnc_mm.datasets.transforms import WholeBatch
from allnc_mm.models.utils.device_augmentation import DeviceAugmentation
from allnc_mm.registry import MODELS


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


@pytest.fixture(scope='module')
def images():
    """Smooth images with some texture: half a pixel is a small difference, a whole one is not."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(20, 230, (6, 3, 5, 5)))
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode='bicubic')
    return (smooth + torch.from_numpy(rng.normal(0, 3, smooth.shape))).clamp(0, 255).to(torch.uint8)


def ordinary(transform, images):
    return torch.stack([torch.from_numpy(np.ascontiguousarray(
        transform(dict(img=x.permute(1, 2, 0).numpy().copy(), img_shape=(32, 32)))['img'])).permute(2, 0, 1)
        for x in images])


def draws(batch, n, seed=0):
    return torch.rand(n, batch.draws, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('cfg, mean, most', [
    (dict(type='Shear', magnitude=0.3, direction='horizontal', interpolation='bicubic'), 1.0, 60),
    (dict(type='Shear', magnitude=0.2, direction='vertical', interpolation='bilinear'), 1.0, 60),
    (dict(type='Translate', magnitude=0.25, direction='horizontal'), 0, 0),
    (dict(type='Translate', magnitude=0.125, direction='vertical'), 0, 0),
    (dict(type='Rotate', angle=20., interpolation='bilinear', pad_val=(128, 128, 128)), 1.0, 60),
    (dict(type='Rotate', angle=75., pad_val=(128, 128, 128)), 0, 0),
    (dict(type='AutoContrast'), 0.6, 1),
    (dict(type='Equalize'), 0.6, 1),
    (dict(type='Invert'), 0, 0),
    (dict(type='Solarize', thr=110), 0, 0),
    (dict(type='SolarizeAdd', magnitude=40), 0, 0),
    (dict(type='Posterize', bits=4), 0, 0),
    (dict(type='Contrast', magnitude=0.6), 1, 2),
    (dict(type='ColorTransform', magnitude=0.6), 1, 3),
    (dict(type='Brightness', magnitude=0.4), 0.6, 1),
    (dict(type='Sharpness', magnitude=0.7), 1, 3),
], ids=lambda value: value['type'] if isinstance(value, dict) else '')
@pytest.mark.parametrize('negative', [0., 1.])
def test_operation_is_that_of_mmpretrain(images, cfg, mean, most, negative):
    signed = cfg['type'] not in ('AutoContrast', 'Equalize', 'Invert', 'Solarize', 'SolarizeAdd', 'Posterize')
    if negative and not signed:
        pytest.skip('an operation without a sign')
    cfg = dict(cfg, prob=1., **(dict(random_negative_prob=negative) if signed else {}))
    transform = TRANSFORMS.build(cfg)
    batch = WholeBatch([transform])
    ours = batch(images, draws(batch, len(images))).float()
    # mmcv takes the channels for BGR, we for RGB: one of the differences that docs/speed.md tells
    theirs = ordinary(transform, images.flip(1)).flip(1).float()
    if cfg['type'] == 'Sharpness':  # PIL and torchvision keep the border pixels, OpenCV reflects
        ours, theirs = ours[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1]
        images = images[..., 1:-1, 1:-1]
    assert (ours - images.float()).abs().mean() > 1  # it does something
    assert (ours - theirs).abs().mean() <= mean and (ours - theirs).abs().max() <= most


def test_grey_images_are_those_of_mmcv(images):
    for weights in ((1., 1., 1.), (0.114, 0.587, 0.2989)):
        transform = TRANSFORMS.build(dict(type='RandomGrayscale', prob=1., keep_channels=True, channel_weights=weights))
        batch = WholeBatch([transform])
        assert torch.equal(batch(images, draws(batch, len(images))), ordinary(transform, images))


def test_crop_and_flip_have_the_distribution_of_mmpretrain():
    """Every one of the 9 x 9 x 2 crops is equally likely; the two coordinates of a pixel tell which one it is."""
    rows, cols = torch.meshgrid(torch.arange(32), torch.arange(32), indexing='ij')
    one = torch.stack([rows + 1, cols + 1, torch.ones_like(rows)]).to(torch.uint8)
    n = 16200
    transforms = [TRANSFORMS.build(dict(type='RandomCrop', crop_size=32, padding=4)),
                  TRANSFORMS.build(dict(type='RandomFlip', prob=0.5, direction='horizontal'))]
    batch = WholeBatch(transforms)
    out = batch(one.expand(n, -1, -1, -1), draws(batch, n)).long()
    assert out.dtype == torch.int64 and out.shape == (n, 3, 32, 32)
    flipped = (out[:, 1, 16, 15] > out[:, 1, 16, 16]).long()
    top, left = out[:, 0, 16, 16] - 13, torch.where(flipped == 1, out[:, 1, 16, 15], out[:, 1, 16, 16]) - 13
    counts = np.bincount(((top * 9 + left) * 2 + flipped).numpy(), minlength=162)
    assert len(counts) == 162 and stats.chisquare(counts).pvalue > 1e-3
    # the pixels around are zero, as in mmpretrain
    seen = {(int(t), int(x), int(f)): o for t, x, f, o in zip(top, left, flipped, out)}
    np.random.seed(0)
    for _ in range(20):
        results = dict(img=one.permute(1, 2, 0).numpy().copy(), img_shape=(32, 32))
        for transform in transforms:
            results = transform(results)
        image = torch.from_numpy(results['img'].copy()).permute(2, 0, 1).long()
        f = int(image[1, 16, 15] > image[1, 16, 16])
        key = int(image[0, 16, 16]) - 13, int(image[1, 16, 15 if f else 16]) - 13, f
        assert torch.equal(seen[key], image)


def test_resized_crops_have_the_distribution_of_mmpretrain():
    """Offsets, sizes and aspects of the boxes, read off a ramp; and one box is resized as OpenCV does it."""
    rows, cols = torch.meshgrid(torch.arange(32.), torch.arange(32.), indexing='ij')
    ramp = torch.stack([rows * 8, cols * 8, rows * 4 + cols * 4]).to(torch.uint8)
    transform = TRANSFORMS.build(dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.2, 1.0)))
    batch, n = WholeBatch([transform]), 3000
    ours = batch(ramp.expand(n, -1, -1, -1), draws(batch, n))
    np.random.seed(0)
    theirs = ordinary(transform, ramp.expand(n, -1, -1, -1))

    def summary(x):
        x = x.double()
        return torch.stack([x[:, 0, 0, 0], x[:, 1, 0, 0], x[:, 0, -1, 0] - x[:, 0, 0, 0],
                            x[:, 1, 0, -1] - x[:, 1, 0, 0], x[:, 2, 16, 16]], 1).numpy()

    for a, b in zip(summary(ours).T, summary(theirs).T):
        assert stats.ks_2samp(a, b).pvalue > 1e-3
    boxes = {tuple(row): i for i, row in enumerate(summary(theirs))}
    same = [(i, boxes[tuple(row)]) for i, row in enumerate(summary(ours)) if tuple(row) in boxes]
    assert len(same) > 20
    close = [(ours[i].float() - theirs[j].float()).abs().max() <= 1 for i, j in same]
    assert np.mean([bool(c) for c in close]) > 0.9  # the corners do not always tell two boxes apart


def test_policy_draws_each_operation_as_often_as_mmpretrain():
    """AutoAugment of three sub-policies that leave a mark each."""
    policies = [[dict(type='Brightness', magnitude=-0.5, prob=0.4, random_negative_prob=0.)],
                [dict(type='Posterize', bits=1, prob=1.), dict(type='Invert', prob=0.7)],
                [dict(type='Translate', magnitude=1.0, pad_val=7, prob=0.8)]]
    transform = TRANSFORMS.build(dict(type='AutoAugment', policies=policies, hparams={}))
    batch, n = WholeBatch([transform]), 6000
    image = torch.full((3, 4, 4), 200, dtype=torch.uint8)
    values = batch(image.expand(n, -1, -1, -1), draws(batch, n))[:, 0, 0, 0].numpy()
    np.random.seed(1)
    theirs = np.array([transform(dict(img=image.permute(1, 2, 0).numpy().copy(), img_shape=(4, 4)))['img'][0, 0, 0]
                       for _ in range(n)])
    names = sorted({*values, *theirs})
    table = [[(v == name).sum() for name in names] for v in (values, theirs)]
    assert len(names) == 5 and stats.chi2_contingency(table).pvalue > 1e-3


def test_magnitudes_of_randaugment():
    """Uniform level ('inf'), Gaussian level, both signs: Kolmogorov-Smirnov against mmpretrain's own draws."""
    for std in ('inf', 2.0):
        policies = [dict(type='Brightness', magnitude_range=(0, 0.9), prob=1.)]
        transform = TRANSFORMS.build(dict(type='RandAugment', policies=policies, num_policies=1, magnitude_level=6,
                                          magnitude_std=std))
        batch, n = WholeBatch([transform]), 4000
        image = torch.full((3, 1, 1), 100, dtype=torch.uint8)
        values = batch(image.expand(n, -1, -1, -1), draws(batch, n))[:, 0, 0, 0].numpy()
        np.random.seed(2)
        theirs = [transform(dict(img=image.permute(1, 2, 0).numpy().copy(), img_shape=(1, 1)))['img'][0, 0, 0]
                  for _ in range(n)]
        assert stats.ks_2samp(values, theirs).pvalue > 1e-3, std


@pytest.mark.parametrize('cfg', [
    dict(type='Cutout', shape=16, prob=1., pad_val=0),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    dict(type='RandomApply', transforms=[dict(type='Invert', prob=1.)], prob=0.8),
    dict(type='RandomGrayscale', prob=0.3, keep_channels=True),
], ids=lambda cfg: cfg['type'])
def test_moments(images, cfg):
    """Mean and spread over draws of the images' channel means agree within four standard errors."""
    transform = TRANSFORMS.build(cfg)
    batch, n, image = WholeBatch([transform]), 1200, images[0]
    ours = batch(image.expand(n, -1, -1, -1), draws(batch, n)).double().mean((2, 3)).numpy()
    np.random.seed(3)
    theirs = ordinary(transform, image.expand(n, -1, -1, -1)).double().mean((2, 3)).numpy()
    error = np.sqrt((ours.var(0) + theirs.var(0)) / n)
    assert ours.std(0).max() > 1
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * error + 0.5).all()
    assert np.allclose(ours.std(0), theirs.std(0), rtol=0.15, atol=0.5)


def test_hue_is_that_of_colorsys():
    import colorsys

    from allnc_mm.datasets.transforms.whole_batch import _hue
    rng = np.random.default_rng(0)
    rgb = torch.from_numpy(rng.integers(0, 256, (1, 3, 9, 9))).float()
    for shift in (0.0, 0.13, -0.4):
        out = _hue(rgb, torch.tensor([shift]))
        for i, j in ((0, 0), (3, 7), (8, 8)):
            h, s, v = colorsys.rgb_to_hsv(*(rgb[0, :, i, j] / 255).tolist())
            wanted = torch.tensor(colorsys.hsv_to_rgb((h + shift) % 1, s, v)) * 255
            assert (out[0, :, i, j] - wanted).abs().max() <= 0.51


def test_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match='ColorJitter.*Remove it'):
        WholeBatch([TRANSFORMS.build(dict(type='Resize', scale=16))])
    with pytest.raises(ValueError, match='one value for all channels'):
        WholeBatch([TRANSFORMS.build(dict(type='Cutout', shape=4, pad_val=(1, 2, 3)))])
    with pytest.raises(ValueError, match='a single number as pad_val'):
        WholeBatch([TRANSFORMS.build(dict(type='RandomCrop', crop_size=8, padding=1, pad_val=(1, 2, 3)))])
    with pytest.raises(ValueError, match='GaussianBlur has no counterpart'):
        WholeBatch([TRANSFORMS.build(dict(type='GaussianBlur', radius=1))])


def digits(**kwargs):
    pipeline = [dict(type='RandomCrop', crop_size=8, padding=1), dict(type='PackInputs')]
    return DigitsLT(imb_factor=10, pipeline=pipeline, **kwargs)


def test_batches_depend_on_seed_epoch_and_indices_alone():
    dataset = digits()
    dataset.whole_batch = True
    preprocessor = MODELS.build(dict(type='MultiViewDataPreprocessor', mean=[8.], std=[4.], to_rgb=False))
    model = DeviceAugmentation(preprocessor, [dataset.pipeline.transforms] * 2)

    def inputs(epoch, indices, seed=0):
        dataset.set_epoch(epoch, seed)
        torch.manual_seed(epoch)  # must not matter
        return model(dataset.__getitems__(indices), training=True)

    first = inputs(0, [3, 3, 5, 9])
    assert first['inputs'].shape == (8, *first['inputs'].shape[1:]) and first['inputs'].dtype == torch.float32
    labels = torch.cat([sample.gt_label for sample in first['data_samples']])
    assert labels.tolist() == dataset.get_gt_labels()[[3, 3, 5, 9]].tolist() * 2
    assert not torch.equal(*first['inputs'].chunk(2))  # the views of a batch differ
    inputs(1, [1, 2])
    assert torch.equal(first['inputs'], inputs(0, [3, 3, 5, 9])['inputs'])
    assert not torch.equal(first['inputs'], inputs(1, [3, 3, 5, 9])['inputs'])
    assert not torch.equal(first['inputs'], inputs(0, [3, 3, 5, 9], seed=1)['inputs'])
    draws_of_3 = torch.cat([inputs(e, [3, 3])['inputs'] for e in range(5)])
    assert len({tuple(x.flatten().tolist()) for x in draws_of_3}) > 4  # draws of one image differ
    assert preprocessor.batch_augments is model.batch_augments
    batch = dict(inputs=torch.zeros(2, 1, 8, 8), data_samples=None)
    assert torch.equal(model(batch)['inputs'], preprocessor(batch)['inputs'])  # a validation batch


def test_hook_needs_images_in_memory():
    from types import SimpleNamespace

    from mmengine.runner import EpochBasedTrainLoop

    from allnc_mm.engine.hooks import DeviceAugmentationHook
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    loader = SimpleNamespace(dataset=[1])
    with pytest.raises(TypeError, match='in memory'):
        DeviceAugmentationHook().before_train(SimpleNamespace(train_loop=loop, train_dataloader=loader, hooks=[]))


def test_hook_refuses_a_draw_that_all_views_share():
    from types import SimpleNamespace

    from mmengine.runner import EpochBasedTrainLoop

    from allnc_mm.engine.hooks import DeviceAugmentationHook
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    crop = dict(type='RandomCrop', crop_size=8, padding=1)
    views = dict(type='MultiView', num_views=[2], transforms=[[dict(type='RandomFlip', prob=0.5)]])
    dataset = DigitsLT(imb_factor=10, pipeline=[crop, views, dict(type='PackInputs')])
    with pytest.raises(ValueError, match='RandomCrop before MultiView is one for all views; move it'):
        DeviceAugmentationHook().before_train(
            SimpleNamespace(train_loop=loop, train_dataloader=SimpleNamespace(dataset=dataset), hooks=[]))
