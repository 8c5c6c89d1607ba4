import math

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from allnc_mm.functional import ClassStatistics, equiangularity, group_cosine, nc1, nc1_quotient, self_duality
from allnc_mm.segmentation.evaluation import LongTailIoUMetric, PixelCollapseMetric, pixel_collapse_metric
from allnc_mm.segmentation.evaluation.pixel_collapse_metric import spread_pixels

K = 4
META = dict(classes=('a', 'b', 'c', 'd'))


def sample(label, prediction=None, img_shape=None, pad_shape=None):
    label = torch.as_tensor(label)
    out = SegDataSample(gt_sem_seg=PixelData(data=label[None]))
    if prediction is not None:
        out.pred_sem_seg = PixelData(data=torch.as_tensor(prediction)[None])
    meta = dict(img_path='frame.png', img_shape=img_shape or tuple(label.shape), ori_shape=tuple(label.shape))
    out.set_metainfo(dict(meta, pad_shape=pad_shape) if pad_shape else meta)
    return out


def evaluate(metric, batches, size, meta=META):
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = meta
    for batch in batches:
        evaluator.process(data_samples=batch, data_batch=None)
    return evaluator.evaluate(size)


# ---------- IoU
@pytest.fixture(scope='module')
def maps():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 255], p=[0.7, 0.2, 0.05, 0.05], size=(6, 10, 12))  # class 3 never occurs
    predictions = np.where(rng.random(labels.shape) < 0.6, labels % 255, rng.integers(0, 3, labels.shape))
    return labels, predictions


def naive_iou(labels, predictions):
    iou, acc = [], []
    for k in range(K):
        both = either = mine = 0
        for y, p in zip(labels.ravel(), predictions.ravel()):
            if y != 255:
                both += y == k and p == k
                either += y == k or p == k
                mine += y == k
        iou.append(100 * both / either if either else math.nan)
        acc.append(100 * both / mine if mine else math.nan)
    return iou, acc


def test_iou_by_group(maps):
    labels, predictions = maps
    batches = [[sample(y, p)] for y, p in zip(labels, predictions)]
    metric = LongTailIoUMetric()
    training = dict(META, num_per_class=[10, 700, 200, 90])  # not the shares of what is evaluated
    result = evaluate(metric, batches, 6, training)
    iou, acc = naive_iou(labels, predictions)
    np.testing.assert_allclose(metric.per_class['IoU'], iou, rtol=1e-12)
    np.testing.assert_allclose(metric.per_class['Acc'], acc, rtol=1e-12)
    # relative to 250: head 700; middle 200, 90; tail 10
    assert result['mIoU_head'] == round(iou[1], 2) and result['mIoU_tail'] == round(iou[0], 2)
    assert result['mIoU_middle'] == round(iou[2], 2)  # class 3 is NaN and left out
    assert result['mAcc_head'] == round(acc[1], 2) and result['mAcc_tail'] == round(acc[0], 2)
    assert result['mIoU'] == pytest.approx(np.nanmean(iou), abs=0.01)  # mmseg's own


def test_without_training_counts_the_evaluated_pixels_make_the_groups(maps):
    labels, predictions = maps
    iou, _ = naive_iou(labels, predictions)
    result = evaluate(LongTailIoUMetric(thresholds=(1.0, 0.5)), [[sample(y, p)] for y, p in zip(*maps)], 6)
    assert result['mIoU_head'] == round(iou[0], 2) and result['mIoU_middle'] == round(iou[1], 2)
    assert result['mIoU_tail'] == round(iou[2], 2)
    alone = evaluate(LongTailIoUMetric(thresholds=(1e9, 1e9)), [[sample(labels[0], predictions[0])]], 1)
    assert math.isnan(alone['mIoU_head']) and math.isnan(alone['mAcc_middle'])  # empty groups


def test_a_label_out_of_range_is_named():
    bad = np.array([[0, 1], [7, 7]])
    with pytest.raises(ValueError, match=r'labels of frame.png have a value out of range \(7, 2 pixels .*0\.\.3'):
        evaluate(LongTailIoUMetric(), [[sample(bad, np.zeros((2, 2), dtype=int))]], 1)


@pytest.mark.parametrize('kwargs, message', [
    (dict(thresholds=(0.2, 1.0)), '`thresholds` to be'),
    (dict(iou_metrics=['mDice']), "must hold 'mIoU', but is"),
])
def test_iou_settings(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LongTailIoUMetric(**kwargs)


# ---------- collapse
class TinyHead(nn.Module):
    dropout = None

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv_seg = nn.Conv2d(5, K, 1)


class TinySegmentor(nn.Module):

    def __init__(self, mode='whole'):
        super().__init__()
        self.test_cfg = dict(mode=mode)
        self.decode_head = TinyHead()

    def forward(self, features):
        return self.decode_head.conv_seg(features)


def measure(metric, features, samples, batch_size=1, size=None, meta=META):
    """Run the metric on given decoder features."""
    model = TinySegmentor()
    metric.dataset_meta = meta
    metric.attach(model)
    for start in range(0, len(samples), batch_size):
        model(torch.stack(features[start:start + batch_size]))
        metric.process(None, [s.to_dict() for s in samples[start:start + batch_size]])
    return metric.evaluate(size or len(samples)), model


@pytest.fixture(scope='module')
def scenes():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, K, (5, 6, 8), generator=generator)
    labels[:, :2, :3] = 255
    labels[4] = 255  # an image without any labelled pixel
    features = [torch.randn(5, 6, 8, generator=generator) + 3 for _ in range(5)]
    return features, [sample(label) for label in labels], labels


def expected(features, labels, tail, weight):
    stats = ClassStatistics(K, 5)
    for feature, label in zip(features, labels):
        for i in range(label.shape[0]):
            for j in range(label.shape[1]):
                if label[i, j] != 255:
                    stats.update(feature[:, i, j][None], label[i, j][None])
    means = stats.class_means()
    return {'collapse/nc1': nc1(stats), 'collapse/nc1_quotient': nc1_quotient(stats),
            'collapse/std_cos_means': equiangularity(means), 'collapse/std_cos_classifier': equiangularity(weight),
            'collapse/self_duality': self_duality(weight, means),
            'collapse/tail_cosine': group_cosine(weight, tail, center=True),
            'collapse/tail_cosine_means': group_cosine(means, tail, center=True)}


@pytest.mark.parametrize('batch_size', [1, 2])
def test_measures_of_all_pixels(scenes, batch_size):
    features, samples, labels = scenes
    meta = dict(META, num_per_class=[1000, 700, 3, 2])
    result, model = measure(PixelCollapseMetric(per_class=1000), features, samples, batch_size, meta=meta)
    naive = expected(features, labels, [2, 3], model.decode_head.conv_seg.weight.flatten(1))
    assert set(result) == set(naive)
    for name, value in naive.items():
        assert result[name] == pytest.approx(value, rel=1e-9), name


def test_sample_is_capped_spread_and_always_the_same():
    labels = torch.tensor([0] * 100 + [1] * 3 + [255] * 50 + [2] * 7 + [0] * 100)
    chosen = spread_pixels(labels, 3, 4)
    taken = labels[chosen]
    assert taken.bincount().tolist() == [4, 3, 4]
    assert chosen[taken == 0].tolist() == [25, 75, 185, 235]  # the 25th, 75th, 125th and 175th of 200
    assert len(chosen.unique()) == len(chosen)
    assert spread_pixels(labels, 3, 4).equal(chosen)
    assert spread_pixels(torch.tensor([255, 255]), 3, 4).tolist() == []
    for amount in range(1, 12):  # no position twice, none outside of the class
        positions = spread_pixels(torch.zeros(amount, dtype=torch.int64), 1, 5)
        assert len(positions.unique()) == len(positions) == min(amount, 5)


def test_labels_are_read_at_the_centre_of_each_feature():
    # features (3, 4) of an input padded from 8 x 12 to 12 x 16; the label map has twice the size of the image
    label = torch.arange(16)[:, None] // 8 + 2 * (torch.arange(24)[None] // 12)
    feature = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    metric = PixelCollapseMetric(per_class=100)
    result, model = measure(metric, [feature], [sample(label, img_shape=(8, 12), pad_shape=(12, 16))])
    # rows at 2, 6, (10: padding); columns at 2, 6, 10, (14): in the label map 4, 12 and 4, 12, 20
    truth = torch.tensor([[0, 2, 2], [1, 3, 3]])
    naive = expected([feature[:, :2, :3]], [truth], [], model.decode_head.conv_seg.weight.flatten(1))
    for name in ('nc1', 'std_cos_means', 'self_duality'):
        assert result[f'collapse/{name}'] == pytest.approx(naive[f'collapse/{name}'], rel=1e-9)


def test_two_ranks_are_one(scenes, monkeypatch):
    features, samples, _ = scenes
    meta = dict(META, num_per_class=[1000, 700, 3, 2])
    whole, _ = measure(PixelCollapseMetric(per_class=4), features, samples, meta=meta)
    gathered = []
    for rank in (0, 1):  # as DefaultSampler deals them out; rank 1 gets the first image again, to be as long
        monkeypatch.setattr(pixel_collapse_metric, 'get_dist_info', lambda rank=rank: (rank, 2))
        index = [0, 2, 4] if rank == 0 else [1, 3, 0]

        def gather(state):
            gathered.append(state)
            return list(gathered)

        monkeypatch.setattr(pixel_collapse_metric, 'all_gather_object', gather)
        split, _ = measure(PixelCollapseMetric(per_class=4), [features[i] for i in index],
                           [samples[i] for i in index], size=5, meta=meta)
    for name, value in whole.items():
        assert split[name] == pytest.approx(value, rel=1e-9), name


def test_the_model_is_recorded_only_during_an_evaluation(scenes):
    features, samples, _ = scenes
    metric = PixelCollapseMetric()
    first, model = measure(metric, features, samples)
    assert not model.decode_head.conv_seg._forward_pre_hooks
    again, _ = measure(metric, features, samples)
    assert again == pytest.approx(first, nan_ok=True)
    metric.attach(model)
    metric.attach(model)  # an evaluation that was cut short leaves no second recording
    assert len(model.decode_head.conv_seg._forward_pre_hooks) == 1


def test_collapse_errors(scenes):
    _, samples, _ = scenes
    with pytest.raises(ValueError, match='per_class must be a positive integer, but got 0'):
        PixelCollapseMetric(per_class=0)
    with pytest.raises(ValueError, match='`thresholds` to be'):
        PixelCollapseMetric(thresholds=(0, 1))
    metric = PixelCollapseMetric()
    metric.dataset_meta = META
    with pytest.raises(ValueError, match="has no model; add default_hooks=.*'AttachMetricsHook'"):
        metric.process(None, [samples[0].to_dict()])
    with pytest.raises(ValueError, match="test_cfg.mode is 'slide'; set test_cfg=dict\\(mode='whole'\\)"):
        metric.attach(TinySegmentor(mode='slide'))
    metric.attach(TinySegmentor())
    with pytest.raises(ValueError, match='nothing was evaluated'):
        metric.evaluate(0)
