"""Pixel counts, rare-class batches, class weights and GBBN, with real files, real loaders and the real Runner."""
import os
import pickle
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, DefaultScope
from mmengine.runner import Runner
from torch import nn

import allnc_mm.segmentation  # noqa: F401
from allnc_mm.datasets.reproducible import ReproducibleAugmentation
from allnc_mm.functional import class_weights, gbbn_eta
from allnc_mm.registry import MODELS, TRANSFORMS
from allnc_mm.segmentation.datasets import RareClassSampler, pixel_counts, set_num_per_class
from allnc_mm.segmentation.datasets.camvid import BaseSegDataset  # after allnc_mm, which lets it be imported
from allnc_mm.segmentation.datasets.samplers.rare_class_sampler import RareIndex

K, SIZE = 4, 24
CROP = [dict(type='RareClassCrop', crop_size=(8, 8), cat_max_ratio=0.9), dict(type='PackSegInputs')]
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), *CROP]


@pytest.fixture(autouse=True)
def scope(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def label_maps():
    """Ten maps: 0 and 1 everywhere, 2 in two of them, 3 in six pixels of one corner of one; the last is unlabelled."""
    maps = np.zeros((10, SIZE, SIZE), np.uint8)
    maps[:, :, SIZE // 2:] = 1
    maps[:, :2] = 255
    maps[[1, 4], 15:20, 5:10] = 2
    maps[7, 22:24, 21:24] = 3
    maps[9] = 255
    return maps


COUNTS = np.stack([(label_maps() == k).sum((1, 2)) for k in range(K)], 1)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('seg')
    rng = np.random.default_rng(0)
    for i, labels in enumerate(label_maps()):
        mmcv.imwrite(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8), str(folder / 'img' / f'{i}.png'))
        mmcv.imwrite(labels, str(folder / 'ann' / f'{i}.png'))
    return folder


def dataset_cfg(root, **kwargs):
    return dict(dict(type='BaseSegDataset', data_root=str(root), data_prefix=dict(img_path='img', seg_map_path='ann'),
                     img_suffix='.png', metainfo=dict(classes=('a', 'b', 'c', 'd')), pipeline=PIPELINE), **kwargs)


def dataset(root, **kwargs):
    return DATASETS.build(dataset_cfg(root, **kwargs))


def sampler(data, batch_size=4, q=0.0, **kwargs):
    class Uniform(torch.utils.data.SequentialSampler):
        dataset, seed, epoch = data, 3, 0

    return RareClassSampler(Uniform(data), batch_size, q=q, **kwargs)


def test_counts_are_those_of_the_maps_and_cached(root, tmp_path):
    data = dataset(root)
    np.testing.assert_array_equal(pixel_counts(data), COUNTS)
    assert data.metainfo['num_per_class'] == COUNTS.sum(0).tolist() == set_num_per_class(data)
    cached, = (tmp_path / 'cache' / 'allnc_mm').iterdir()
    np.save(cached, COUNTS + 1)  # what it then says comes from there
    np.testing.assert_array_equal(pixel_counts(dataset(root)), COUNTS + 1)
    cached.write_bytes(b'torn')
    np.testing.assert_array_equal(pixel_counts(dataset(root)), COUNTS)
    later = root / 'ann' / '0.png'
    os.utime(later, (2e9, 2e9))  # a changed file has another key
    np.save(cached, COUNTS + 1)
    np.testing.assert_array_equal(pixel_counts(dataset(root)), COUNTS)


def test_counts_read_labels_as_training_does(root):
    # the other classes become 255
    fewer = dataset(root, type=Fewer, metainfo=dict(classes=('b', 'd')))
    np.testing.assert_array_equal(pixel_counts(fewer), COUNTS[:, [1, 3]])
    shifted = dataset(root, metainfo=dict(classes=('b', 'c', 'd')), reduce_zero_label=True)
    np.testing.assert_array_equal(pixel_counts(shifted), COUNTS[:, 1:])
    repeated = DATASETS.build(dict(type='RepeatDataset', dataset=dataset_cfg(root), times=2))
    np.testing.assert_array_equal(pixel_counts(repeated), np.tile(COUNTS, (2, 1)))
    given = dataset(root, metainfo=dict(classes=('a', 'b', 'c', 'd'), num_per_class=[1, 2, 3, 4]))
    assert set_num_per_class(given) == [1, 2, 3, 4]


@DATASETS.register_module()
class ReproducibleSeg(ReproducibleAugmentation, BaseSegDataset):
    pass


class Fewer(BaseSegDataset):
    METAINFO = dict(classes=('a', 'b', 'c', 'd'), palette=[[0, 0, 0]] * 4)


def test_wrong_labels_and_missing_files(root, tmp_path):
    with pytest.raises(ValueError, match=r'holds the labels \[2\].*2 classes.*reduce_zero_label') as error:
        pixel_counts(dataset(root, metainfo=dict(classes=('a', 'b')), indices=[1]))
    assert '1.png' in str(error.value)
    with pytest.raises(ValueError, match='classes'):
        pixel_counts(dataset(root, metainfo=dict()))
    with pytest.raises(FileNotFoundError, match='seg_map_suffix'):
        pixel_counts(dataset(root, seg_map_suffix='_gt.png'))


@pytest.mark.parametrize('q', [0.0, 0.5, -1.0])
def test_classes_are_drawn_by_their_pixels(root, q):
    source, batches = sampler(dataset(root), q=q), []
    for source.seed in range(300):
        batches.append(list(source))
    pairs = [(int(i), i.rare_class) for run in batches for batch in run for i in batch[len(batch) // 2:]]
    assert all(type(i) is int for run in batches for batch in run for i in batch[:len(batch) // 2])
    assert [i for batch in batches[0] for i in batch[:len(batch) // 2]] == list(range(10))
    assert all(COUNTS[image, k] > 0 for image, k in pairs)
    share = np.bincount([k for _, k in pairs], minlength=K) / len(pairs)
    expected = COUNTS.sum(0).astype(float)**q
    expected /= expected.sum()
    np.testing.assert_allclose(share, expected, atol=0.03)
    images = [image for image, k in pairs if k == 2]
    assert abs(images.count(1) - images.count(4)) <= 300  # in turn, within each run


def test_ranks_share_one_stream_and_epochs_differ(root, monkeypatch):
    data = dataset(root)
    one = [i for batch in sampler(data, batch_size=10) for i in batch[10:]]
    halves = []
    for rank in range(2):
        monkeypatch.setattr('allnc_mm.segmentation.datasets.samplers.rare_class_sampler.get_dist_info',
                            lambda rank=rank: (rank, 2))
        mine = sampler(data, batch_size=5)
        mine.sampler.__class__.__iter__ = lambda self: iter(range(5))
        halves.append([i for batch in mine for i in batch[5:]])
    assert [(i, i.rare_class) for pair in zip(*halves) for i in pair] == [(i, i.rare_class) for i in one]
    again, other = sampler(data), sampler(data)
    other.sampler.__class__.epoch = 1
    assert list(again) == list(sampler(data)) != list(other)


def test_prior_is_that_of_the_drawn_images(root):
    whole = dict(pipeline=[*PIPELINE[:2], PIPELINE[-1]])
    data = sampler(dataset(root, **whole), q=0.0)
    expected = np.mean([COUNTS[COUNTS[:, k] > 0].mean(0) for k in range(K)], 0)
    expected /= expected.sum()
    np.testing.assert_allclose(data.prior, expected)
    np.testing.assert_array_equal(data.num_per_class, COUNTS.sum(0))
    progressive = sampler(dataset(root, **whole), q=0.0, progressive=True)
    np.testing.assert_allclose(progressive.class_prior, COUNTS.sum(0) / COUNTS.sum())
    progressive.set_eta(0.0)
    np.testing.assert_allclose(progressive.prior, expected)


def test_prior_is_that_of_the_crops(root):
    torch.manual_seed(1), np.random.seed(1)
    data = dataset(root)
    before = np.random.get_state()[1].copy()
    source = sampler(data, batch_size=10, prior_crops=400)
    assert (np.random.get_state()[1] == before).all()  # training draws what it drew without
    found = np.zeros(K)
    for source.seed in range(60):
        for index in next(iter(source))[10:]:
            labels = data[index]['data_samples'].gt_sem_seg.data.numpy()
            found += np.bincount(labels.ravel(), minlength=K)[:K]
    np.testing.assert_allclose(source.prior, found / found.sum(), atol=0.04)
    assert source.prior[2] > 3 * COUNTS.sum(0)[2] / COUNTS.sum()  # windows around the rare class hold more of it
    np.testing.assert_array_equal(sampler(data, prior_crops=400).prior, source.prior)  # the same on every rank


def test_min_pixels(root):
    assert {int(i) for b in sampler(dataset(root), min_pixels=20) for i in b[len(b) // 2:] if i.rare_class == 3} <= {7}


def test_crop_holds_the_class(root):
    crop = TRANSFORMS.build(CROP[0])
    labels = label_maps()[7]
    windows = set()
    for seed in range(200):
        np.random.seed(seed)
        results = dict(img=np.dstack([labels] * 3), gt_seg_map=labels, seg_fields=['gt_seg_map'],
                       img_shape=labels.shape, sample_idx=RareIndex(7, 3))
        out = crop(results)
        assert out['gt_seg_map'].shape == (8, 8) and (out['gt_seg_map'] == 3).any()
        np.testing.assert_array_equal(out['img'][..., 0], out['gt_seg_map'])
        windows.add(out['gt_seg_map'].tobytes())
    assert len(windows) > 3  # not always the same corner
    natural = [crop(dict(img=labels[..., None], gt_seg_map=labels, seg_fields=['gt_seg_map'], img_shape=labels.shape,
                         sample_idx=7))['gt_seg_map'] for _ in range(40)]
    assert sum((y == 3).any() for y in natural) < 30 and {y.shape for y in natural} == {(8, 8)}
    small = dict(img=labels[:5, :6, None], gt_seg_map=np.full((5, 6), 3, np.uint8), seg_fields=['gt_seg_map'],
                 img_shape=(5, 6), sample_idx=RareIndex(7, 3))
    assert crop(small)['gt_seg_map'].shape == (5, 6)
    gone = dict(img=labels[..., None], gt_seg_map=labels * 0, seg_fields=['gt_seg_map'], img_shape=labels.shape,
                sample_idx=RareIndex(7, 3))
    assert crop(gone)['gt_seg_map'].shape == (8, 8)


def test_index_survives_the_way_to_a_worker():
    index = pickle.loads(pickle.dumps(RareIndex(5, 2)))
    assert index == 5 and index.rare_class == 2 and [0] * 6 + [index] == [0] * 6 + [5]


@pytest.mark.parametrize('make, error, message', [
    (lambda root: sampler(dataset(root), q=float('nan')), ValueError, 'finite'),
    (lambda root: sampler(dataset(root), batch_size=0), ValueError, 'batch_size'),
    (lambda root: sampler(dataset(root), min_pixels=0), ValueError, 'min_pixels'),
    (lambda root: sampler(dataset(root), prior_crops=0), ValueError, 'prior_crops'),
    (lambda root: sampler(dataset(root, indices=[0])), ValueError, 'asks for images of every class'),
    (lambda root: sampler(dataset(root, metainfo=dict(classes=tuple('abcd'), num_per_class=[9] * K))), ValueError,
     r'\[9, 9, 9, 9\], but its label maps have \['),
    (lambda root: sampler(dataset(root, pipeline=[dict(type='RandomCrop', crop_size=(8, 8))])), ValueError,
     'RareClassCrop'),
    (lambda root: sampler(DATASETS.build(dict(type='RepeatDataset', times=2, dataset=dataset_cfg(root)))), TypeError,
     'RepeatDataset'),
])
def test_refused(root, make, error, message):
    with pytest.raises(error, match=message):
        make(root)


@MODELS.register_module()
class OneConv(nn.Conv2d):

    def __init__(self):
        super().__init__(3, 6, 3, padding=1)

    def forward(self, x):
        return (super().forward(x), )


@HOOKS.register_module()
class RecordSeg(Hook):
    """Keeps what the iterations of the run under way logged, and the labels of the second half of their batches."""
    priority = 'LOWEST'
    seen = []

    def before_train(self, runner):
        self.seen.clear()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        rare = data_batch['data_samples'][len(data_batch['data_samples']) // 2:]
        self.seen.append(({k: v.item() for k, v in outputs.items()},
                          torch.stack([s.gt_sem_seg.data for s in rare])))


def replace(cfg, changes):
    for key, value in changes.items():
        *path, last = key.split('.')
        part = cfg
        for name in path:
            part = part[name]
        part[last] = value


PREPROCESSOR = dict(type='SegDataPreProcessor', mean=[128.] * 3, std=[64.] * 3, size=(8, 8))


def runner(root, work_dir, name, iters=4, **changes):
    cfg = Config(dict(
        default_scope='mmseg', experiment_name=name, work_dir=str(work_dir), log_level='ERROR',
        model=dict(
            type='AllNCSegmentor', data_preprocessor=PREPROCESSOR, backbone=dict(type='OneConv'),
            decode_head=dict(type='FCNHead', in_channels=6, channels=8, num_convs=1, in_index=0, num_classes=K,
                             norm_cfg=dict(type='BN'), loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True)),
            loss_rebalanced=dict(type='LogitAdjustedSegLoss'), bilateral=True,
            geometry=dict(hycon=dict(type='HyConLoss', positives=['mean'], class_balanced=True),
                          p2p=dict(type='P2PLoss'), max_pixels=8, proj_channels=4),
            center=dict(channels=4, embed_dims=6), train_cfg=dict(), test_cfg=dict(mode='whole')),
        train_dataloader=dict(
            batch_size=2, num_workers=0, dataset=dataset_cfg(root, type='ReproducibleSeg'),
            sampler=dict(type='InfiniteSampler', shuffle=True),
            batch_sampler=dict(type='RareClassSampler', q=0.0)),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=1000),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
        default_hooks=dict(class_counts=dict(type='PixelCountsHook'), gbbn=dict(type='GBBNHook', gamma=2.0),
                           seed=dict(type='EpochSeedHook'),
                           checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False)),
        custom_hooks=[dict(type='RecordSeg')],
        randomness=dict(seed=0)))
    replace(cfg, changes)
    return Runner.from_cfg(cfg)


def stock(root, work_dir, name, hooks=(), **changes):
    """A stock segmentor with one hook in its config."""
    cfg = runner(root, work_dir, name + '-cfg').cfg
    for key in ('loss_rebalanced', 'bilateral', 'geometry', 'center'):
        cfg.model.pop(key)
    cfg.model.type, cfg.experiment_name = 'EncoderDecoder', name
    for key in ('gbbn', 'class_counts'):
        cfg.default_hooks.pop(key)
    cfg.train_dataloader.pop('batch_sampler')
    cfg.custom_hooks = [*cfg.custom_hooks, *hooks]
    replace(cfg, changes)
    return Runner.from_cfg(cfg)


def test_training_with_all_parts_and_exact_resume(root, tmp_path):
    whole = runner(root, tmp_path / 'whole', 'seg-whole')
    whole.train()
    seen = list(RecordSeg.seen)
    for i, (losses, rare) in enumerate(seen):
        assert losses['gbbn_eta'] == pytest.approx(gbbn_eta(i / 4, 2.0), abs=1e-6)
        assert all(np.isfinite(v) for k, v in losses.items() if 'loss' in k)
        assert rare.shape == (2, 1, 8, 8)
    assert seen[0][0].keys() >= {'decode.loss_ce', 'decode.loss_rebalanced', 'loss_hycon', 'loss_p2p',
                                 'center.loss_center'}
    assert any((rare >= 2).any() for _, rare in seen)  # two small classes make half of the draws
    head = whole.model.decode_head
    batches = whole.train_dataloader.batch_sampler
    torch.testing.assert_close(head.loss_decode[1].loss.log_prior.exp().double(), torch.as_tensor(batches.prior))
    torch.testing.assert_close(whole.model.center.log_prior.exp().double(),
                               torch.as_tensor(COUNTS.sum(0) / COUNTS.sum()), atol=1e-6, rtol=1e-5)

    cut = runner(root, tmp_path / 'cut', 'seg-cut', **{'load_from': str(tmp_path / 'whole' / 'iter_2.pth'),
                                                      'resume': True})
    cut.train()
    assert len(RecordSeg.seen) == 2
    for (losses, rare), (expected, labels) in zip(RecordSeg.seen, seen[2:]):
        assert losses == expected and torch.equal(rare, labels)
    for (key, a), b in zip(whole.model.state_dict().items(), cut.model.state_dict().values()):
        assert torch.equal(a, b), key


@pytest.mark.parametrize('loss, scheme', [
    (dict(type='CrossEntropyLoss'), 'inverse'),
    ([dict(type='CrossEntropyLoss', avg_non_ignore=True), dict(type='TverskyLoss'), dict(type='DiceLoss')], 'median'),
    (dict(type='LovaszLoss', reduction='none'), 'log'),
    (dict(type='LogitAdjustedSegLoss', tau=0.0), 'inverse'),
])
def test_class_weights_in_one_line(root, tmp_path, loss, scheme):
    run = stock(root, tmp_path, f'weights-{scheme}-{len(str(loss))}', [dict(type='SegClassWeightsHook', scheme=scheme)],
                **{'model.decode_head.loss_decode': loss, 'train_cfg.max_iters': 1})
    run.train()
    frequency = COUNTS.sum(0) / np.array([COUNTS.sum(1)[COUNTS[:, k] > 0].sum() for k in range(K)])
    expected = class_weights(COUNTS.sum(0), scheme, frequency=frequency)
    losses = [m for m in run.model.modules() if getattr(m, 'class_weight', None) is not None]
    assert len(losses) == (2 if isinstance(loss, list) else 1)
    for module in losses:
        np.testing.assert_allclose(np.asarray(module.class_weight), expected, rtol=1e-5)
    assert all(np.isfinite(v) for v in RecordSeg.seen[0][0].values())


@pytest.mark.parametrize('avg_non_ignore', [False, True])
def test_weighted_cross_entropy_with_ignored_pixels(avg_non_ignore):
    """mmseg's own loss with weights is the weighted mean over the labelled pixels, on both stacks."""
    weight = [1.0, 2.0, 3.0, 4.0]
    loss = MODELS.build(dict(type='CrossEntropyLoss', class_weight=weight, avg_non_ignore=avg_non_ignore))
    logits, labels = torch.randn(3, K, SIZE, SIZE), torch.as_tensor(label_maps()[[0, 7, 9]].astype(np.int64))
    expected = nn.functional.cross_entropy(logits, labels, torch.tensor(weight), ignore_index=255)
    torch.testing.assert_close(loss(logits, labels, ignore_index=255), expected)
    assert loss(logits, torch.full_like(labels, 255), ignore_index=255) == 0
    many = torch.zeros(1, 256, 257, dtype=torch.int64)  # whose weights sum to infinity in float16
    torch.testing.assert_close(loss(torch.zeros(1, K, 256, 257).half(), many, ignore_index=255), torch.tensor(K).log())


@pytest.mark.parametrize('shared', [False, True])
def test_two_branches_give_the_weights_to_the_second(root, tmp_path, shared):
    run = runner(root, tmp_path, f'weights-branch-{shared}', iters=1, **{
        'model.loss_rebalanced': dict(type='CrossEntropyLoss', avg_non_ignore=True), 'model.shared': shared,
        'custom_hooks': [dict(type='SegClassWeightsHook', power=1.0)]})
    run.train()
    first, second = (branch.loss for branch in run.model.decode_head.loss_decode)
    assert first.class_weight is None
    # from what the sampler leaves in the images of the branch, so that both together do not re-balance twice
    seen = run.train_dataloader.batch_sampler.prior
    if shared:
        seen = (seen + COUNTS.sum(0) / COUNTS.sum()) / 2
    np.testing.assert_allclose(second.class_weight, class_weights(seen, power=1.0))


def test_refused_before_training(root, tmp_path):
    hook = [dict(type='SegClassWeightsHook')]
    for number, (loss, message) in enumerate([
            (dict(type='DiceLoss'), 'no loss with `class_weight`'),
            (dict(type='CrossEntropyLoss', class_weight=[1.] * K), 'remove one of the two'),
            (dict(type='CrossEntropyLoss', use_sigmoid=True), 'does not take class weights')]):
        with pytest.raises(ValueError, match=message):
            stock(root, tmp_path, f'refused-{number}', hook, **{'model.decode_head.loss_decode': loss}).train()
    with pytest.raises(ValueError, match='scheme'):
        HOOKS.build(dict(type='SegClassWeightsHook', scheme='none'))
    with pytest.raises(ValueError, match='decode_head.num_classes=4'):
        runner(root, tmp_path, 'refused-k', **{'model.decode_head.num_classes': 5}).train()
    cascade = [dict(type='FCNHead', in_channels=6, channels=8, in_index=0, num_classes=5),
               dict(type='OCRHead', in_channels=6, ocr_channels=4, channels=8, in_index=0, num_classes=5)]
    with pytest.raises(ValueError, match='decode_head.0.num_classes=4'):
        stock(root, tmp_path, 'refused-cascade', [dict(type='PixelCountsHook')], **{
            'model.type': 'CascadeEncoderDecoder', 'model.num_stages': 2, 'model.decode_head': cascade}).train()
    evaluation = {'val_dataloader': dict(batch_size=1, dataset=dataset_cfg(root), sampler=dict(type='DefaultSampler')),
                  'val_evaluator': dict(type='PixelCollapseMetric'), 'val_cfg': dict()}
    with pytest.raises(ValueError, match="PixelCollapseMetric has no model; .*'AttachMetricsHook'"):
        runner(root, tmp_path, 'refused-metric', **evaluation).train()
    with pytest.raises(ValueError, match="test_cfg=dict.mode='whole'"):
        stock(root, tmp_path, 'refused-slide', [dict(type='AttachMetricsHook')], **evaluation, **{
            'model.test_cfg': dict(mode='slide', crop_size=(8, 8), stride=(4, 4))}).train()
    cfg = runner(root, tmp_path, 'refused-cfg').cfg
    cfg.default_hooks.pop('gbbn')
    cfg.experiment_name = 'refused-gbbn'
    with pytest.raises(ValueError, match='GBBNHook'):
        Runner.from_cfg(cfg).train()
    with pytest.raises(ValueError, match='model.bilateral=True and model.loss_rebalanced'):
        runner(root, tmp_path, 'refused-one', **{'model.bilateral': False}).train()
    with pytest.raises(ValueError, match='every image then serves both branches'):
        runner(root, tmp_path, 'refused-two', **{'train_dataloader.batch_sampler': None}).train()
    Path(tmp_path / 'bad' / 'ann').mkdir(parents=True)
    for i in range(2):
        mmcv.imwrite(np.zeros((8, 8, 3), np.uint8), str(tmp_path / 'bad' / 'img' / f'{i}.png'))
        mmcv.imwrite(np.full((8, 8), 17, np.uint8), str(tmp_path / 'bad' / 'ann' / f'{i}.png'))
    with pytest.raises(ValueError, match=r'\[17\]'):
        stock(root, tmp_path, 'refused-labels', [dict(type='PixelCountsHook')],
              **{'train_dataloader.dataset.data_root': str(tmp_path / 'bad')}).train()


def test_one_batch_for_both_branches(root, tmp_path):
    """bilateral=False, what PixelCountsHook offers to who has no RareClassSampler."""
    run = runner(root, tmp_path, 'both', iters=2, **{'model.bilateral': False, 'train_dataloader.batch_sampler': None})
    run.train()
    assert [losses['gbbn_eta'] for losses, _ in RecordSeg.seen] == pytest.approx([1, 0.75])
    natural = torch.as_tensor(COUNTS.sum(0) / COUNTS.sum())
    prior = run.model.decode_head.loss_decode[1].loss.log_prior.exp().double()
    torch.testing.assert_close(prior, natural, atol=1e-6, rtol=1e-5)
