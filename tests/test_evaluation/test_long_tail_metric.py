import json
import math
import os

import numpy as np
import pytest
import torch
import torch.multiprocessing
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmpretrain.structures import DataSample

import allnc_mm  # noqa: F401
from allnc_mm.evaluation import LongTailMetric
from allnc_mm.registry import METRICS

COUNTS = [300, 101, 100, 20, 19, 2]
KEYS = {'overall', 'balanced', 'many', 'medium', 'few', 'worst_class', 'geometric_mean', 'harmonic_mean', 'ece',
        'ece_balanced', 'mce'}


def make_predictions(num=211, num_classes=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num, ), generator=generator)
    logits = torch.randn(num, num_classes, generator=generator)
    logits[torch.arange(num), labels] += 1.5
    return labels, logits.softmax(1)


def samples_of(labels, scores):
    return [
        DataSample().set_gt_label(label).set_pred_score(score).set_pred_label(score.argmax())
        for label, score in zip(labels, scores)
    ]


def evaluate(labels, scores, meta=None, **kwargs):
    evaluator = Evaluator(dict(type='LongTailMetric', **kwargs))
    evaluator.dataset_meta = dict(num_per_class=COUNTS) if meta is None else meta
    for start in range(0, len(labels), 40):
        evaluator.process(samples_of(labels[start:start + 40], scores[start:start + 40]))
    metrics = evaluator.evaluate(len(labels))
    return {key.removeprefix('long_tail/'): value for key, value in metrics.items()}, evaluator.metrics[0]


def naive(labels, scores, groups):
    labels, scores = labels.numpy(), scores.double().numpy()
    predicted, confidence = scores.argmax(1), scores.max(1)
    per_class = [100 * np.mean(predicted[labels == k] == k) for k in range(6)]
    group = [np.mean([per_class[k] for k in index]) for index in groups]

    def calibration(weight):
        gaps, shares = [], []
        for m in range(15):
            inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
            if inside.any():
                share = weight[inside].sum()
                gaps.append(abs(((predicted == labels)[inside] * weight[inside]).sum() / share
                                - (confidence[inside] * weight[inside]).sum() / share))
                shares.append(share / weight.sum())
        return 100 * np.dot(gaps, shares), 100 * max(gaps)

    ece, mce = calibration(np.ones(len(labels)))
    balanced = np.array([1 / (6 * np.sum(labels == y)) for y in labels])
    return dict(overall=100 * np.mean(predicted == labels), balanced=np.mean(per_class), many=group[0],
                medium=group[1], few=group[2], worst_class=min(per_class), geometric_mean=np.prod(per_class)**(1 / 6),
                harmonic_mean=3 / sum(1 / g for g in group), ece=ece, mce=mce, ece_balanced=calibration(balanced)[0])


@pytest.mark.parametrize('groups, index', [
    ('A', ([0, 1], [2, 3], [4, 5])),
    ('B', ([0, 1, 2], [], [3, 4, 5])),
    ((1, 2, 3), ([0], [1, 2], [3, 4, 5])),
    (([0, 5], [1, 3], [2, 4]), ([0, 5], [1, 3], [2, 4])),
])
def test_equals_naive_definitions(groups, index):
    labels, scores = make_predictions()
    metrics, metric = evaluate(labels, scores, groups=groups)
    assert set(metrics) == KEYS and all(isinstance(value, float) for value in metrics.values())
    if index[1]:
        expected = naive(labels, scores, index)
        for key, value in expected.items():
            assert metrics[key] == pytest.approx(value, abs=1e-9), key
    else:
        assert math.isnan(metrics['medium']) and math.isnan(metrics['harmonic_mean'])
        assert not math.isnan(metrics['many']) and not math.isnan(metrics['few'])
    assert np.mean(metric.per_class) == pytest.approx(metrics['balanced'])


def test_calibration_agrees_with_torchmetrics():
    calibration_error = pytest.importorskip('torchmetrics').classification.MulticlassCalibrationError
    labels, scores = make_predictions(num=500)
    metrics, _ = evaluate(labels, scores)
    for key, norm in (('ece', 'l1'), ('mce', 'max')):
        reference = calibration_error(num_classes=6, n_bins=15, norm=norm)(scores, labels)
        assert metrics[key] == pytest.approx(100 * float(reference), abs=1e-3)


def test_zero_and_absent_classes():
    # class 1 always wrong, class 5 not in the test set
    labels = torch.tensor([0, 0, 1, 1, 2, 3, 4])
    predicted = torch.tensor([0, 0, 0, 0, 2, 3, 4])
    metrics, metric = evaluate(labels, torch.eye(6)[predicted])
    np.testing.assert_array_equal(metric.per_class, [100, 0, 100, 100, 100, np.nan])
    assert metrics['overall'] == pytest.approx(500 / 7) and metrics['balanced'] == 80
    assert (metrics['many'], metrics['medium'], metrics['few']) == (50, 100, 100)
    assert metrics['worst_class'] == 0 and metrics['geometric_mean'] == 0
    assert metrics['harmonic_mean'] == pytest.approx(3 / (1 / 50 + 2 / 100))
    # all groups at zero are zero, not undefined
    metrics, _ = evaluate(torch.tensor([0, 2, 4]), torch.eye(6)[torch.tensor([1, 1, 1])])
    assert metrics['harmonic_mean'] == 0 and metrics['geometric_mean'] == 0


def test_counts_from_the_setting_and_file(tmp_path):
    labels, scores = make_predictions()
    metrics, _ = evaluate(labels, scores)
    explicit, metric = evaluate(labels, scores, meta={}, num_per_class=COUNTS, out_dir=str(tmp_path / 'out'))
    assert explicit == metrics
    saved = json.loads((tmp_path / 'out' / 'per_class.json').read_text())
    assert saved['num_per_class'] == COUNTS and saved['groups'] == dict(many=[0, 1], medium=[2, 3], few=[4, 5])
    np.testing.assert_allclose(saved['accuracy'], metric.per_class)
    renamed = Evaluator(dict(type='LongTailMetric', num_per_class=COUNTS, prefix='lt'))
    renamed.process(samples_of(labels, scores))
    assert renamed.evaluate(len(labels)) == {f'lt/{key}': value for key, value in metrics.items()}


def test_names_the_convention_once():
    logger = MMLogger.get_instance('long_tail_convention', log_level='INFO')
    records = []
    logger.handlers[0].emit = lambda record: records.append(record.getMessage())
    labels, scores = make_predictions()
    _, metric = evaluate(labels, scores, groups='B')
    metric.dataset_meta = dict(num_per_class=COUNTS)  # a second loop
    text = [record for record in records if 'LongTailMetric' in record]
    assert len(text) == 1
    assert 'many 3, medium 0, few 3 classes (convention B: many >= 100' in text[0]


def test_bad_settings():
    with pytest.raises(ValueError, match="no 'num_per_class'.*set num_per_class="):
        LongTailMetric().dataset_meta = dict(classes=list('abc'))
    with pytest.raises(ValueError, match='dataset_meta was never set; set num_per_class='):
        LongTailMetric().process(None, [])
    with pytest.raises(ValueError, match='remove the setting'):
        LongTailMetric(num_per_class=[3, 2, 1]).dataset_meta = dict(num_per_class=[3, 2, 2])
    with pytest.raises(ValueError, match="'C'"):
        METRICS.build(dict(type='LongTailMetric', groups='C', num_per_class=COUNTS))
    with pytest.raises(ValueError, match='must sum to the 6'):
        LongTailMetric(groups=(4, 3, 3), num_per_class=COUNTS)
    with pytest.raises(ValueError, match='num_bins must be a positive integer, but got 0'):
        LongTailMetric(num_bins=0)
    with pytest.raises(ValueError, match='one count a class'):
        LongTailMetric(num_per_class=[[1, 2], [3, 4]])


def test_bad_predictions():
    labels, scores = make_predictions(num=4)
    for label in (-1, 6):
        with pytest.raises(ValueError, match=r'labels must lie in \[0, 6\)'):
            evaluate(torch.tensor([0, 1, label, 2]), scores)
    broken = scores.clone()
    broken[1:3, 0] = float('nan')
    with pytest.raises(ValueError, match='scores of 2 of 4 samples in the batch are NaN'):
        evaluate(labels, broken)
    with pytest.raises(ValueError, match='must be probabilities'):
        evaluate(labels, 5 * scores)
    with pytest.raises(ValueError, match="set the head's num_classes=6"):
        evaluate(labels.clamp(max=4), scores[:, :5])
    metric = LongTailMetric(num_per_class=COUNTS)
    with pytest.raises(ValueError, match='has no pred_score'):
        metric.process(None, [DataSample().set_gt_label(1).to_dict()])
    with pytest.raises(ValueError, match='exactly one label'):
        metric.process(None, [DataSample().set_gt_label([1, 2]).set_pred_score(scores[0]).to_dict()])
    with pytest.raises(ValueError, match='nothing was evaluated'):
        metric.evaluate(0)


def run_rank(rank, folder):
    os.chdir(folder)  # mmengine collects through a folder in the working directory
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2)
    labels, scores = make_predictions()
    evaluator = Evaluator(dict(type='LongTailMetric', num_per_class=COUNTS))
    sampler = DefaultSampler(labels, shuffle=False)
    assert len(sampler) * 2 == len(labels) + 1  # one duplicate fills the last batch
    indices = torch.tensor(list(sampler))
    for batch in indices.split(16):
        evaluator.process(samples_of(labels[batch], scores[batch]))
    torch.save(evaluator.evaluate(len(labels)), f'{folder}/metrics{rank}.pth')
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    labels, scores = make_predictions()
    expected, _ = evaluate(labels, scores)
    torch.multiprocessing.spawn(run_rank, args=(str(tmp_path), ), nprocs=2)
    for rank in range(2):
        metrics = torch.load(tmp_path / f'metrics{rank}.pth')
        assert metrics == {f'long_tail/{key}': pytest.approx(value, abs=1e-10) for key, value in expected.items()}


def test_classes_of_other_folders_are_refused():
    """A folder per class, of which the evaluated set lacks one: its labels would be those of other classes."""
    metric = METRICS.build(dict(type='LongTailMetric', num_per_class=[9, 3, 1]))
    metric.dataset_meta = dict(classes=('cat', 'lynx', 'robin'))
    with pytest.raises(ValueError, match='2 classes, but num_per_class names 3.*empty folder'):
        metric.dataset_meta = dict(classes=('cat', 'robin'))
