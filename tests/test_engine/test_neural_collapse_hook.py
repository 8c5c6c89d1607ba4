import json
import math
import random
import uuid
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.datasets import KFoldDataset
from torch.utils.data import Subset

import allnc_mm  # noqa: F401
from allnc_mm.datasets import DigitsLT
from allnc_mm.engine.hooks.neural_collapse_hook import NeuralCollapseHook, stratified, undisturbed, without_augmentation
from allnc_mm.evaluation.last_layer import linear_map
from allnc_mm.functional.collapse import ClassStatistics, SecondPass, collapse_measures

TINY = Path(__file__).resolve().parents[1] / 'data' / 'tiny_digits.py'
PREFIX = 'neural_collapse_train/'
# draws from torch's generator in training, as the data loaders of the hook do
DROPOUT = dict(type='StackedLinearClsHead', mid_channels=[6], dropout_rate=0.2)


def run(work_dir, hook=None, seeded=True, head=None, **changes):
    cfg = Config.fromfile(TINY)
    cfg.work_dir, cfg.log_level, cfg.experiment_name = str(work_dir), 'INFO', uuid.uuid4().hex
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval = 2
    cfg.model.backbone.base_channels = 2
    cfg.model.head.update(in_channels=8, **(head or {}))
    cfg.custom_hooks = [dict(type='EpochSeedHook')] * seeded
    if hook is not None:
        cfg.custom_hooks.append(dict(type='NeuralCollapseHook', **hook))
    cfg.visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.merge_from_dict(changes)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def curves(work_dir):
    path, = Path(work_dir).glob('*/vis_data/scalars.json')
    lines = [line for line in path.read_text().splitlines() if PREFIX in line]
    return [json.loads(line, parse_constant=pytest.fail) for line in lines]  # strict JSON: no NaN


@pytest.fixture(scope='module')
def hooked(tmp_path_factory):
    """A training with the hook, and a metric in its validation; the generators are seeded once, at its start."""
    work_dir = tmp_path_factory.mktemp('hooked')
    evaluators = [dict(type='Accuracy', topk=(1, )), dict(type='NeuralCollapseMetric')]
    return run(work_dir, dict(groups=(3, 4, 3)), seeded=False, head=DROPOUT, val_evaluator=evaluators), work_dir


def test_the_training_is_not_disturbed(hooked, tmp_path):
    with_hook, _ = hooked
    without = run(tmp_path, seeded=False, head=DROPOUT)
    first, second = with_hook.model.state_dict(), without.model.state_dict()
    assert any('running_mean' in name for name in first)
    for name, value in second.items():
        assert torch.equal(first[name], value), name


def test_curves_start_before_the_first_epoch(hooked):
    runner, work_dir = hooked
    entries = curves(work_dir)
    assert [entry['step'] for entry in entries] == [0, 1, 2]
    first, last = entries[0], entries[-1]
    assert first[PREFIX + 'num_samples'] == len(runner.train_dataloader.dataset)
    assert PREFIX + 'angle_mean_classifier_many_few' in first
    assert last[PREFIX + 'nc1'] < first[PREFIX + 'nc1']
    assert last[PREFIX + 'nc4_agreement'] != first[PREFIX + 'nc4_agreement']
    log, = Path(work_dir).glob('*/*.log')
    assert 'training images at epoch 0 (' in log.read_text()


def test_values_are_those_of_the_images_without_augmentation(hooked):
    runner, work_dir = hooked
    dataset = DigitsLT(split='train', n_max=40, imb_factor=10, size=8, pipeline=[dict(type='PackInputs')])
    items = list(dataset)
    samples = [item['data_samples'] for item in items]
    runner.model.eval()
    with torch.no_grad():
        batch = runner.model.data_preprocessor(dict(inputs=[item['inputs'] for item in items], data_samples=samples))
        features = runner.model.extract_feat(batch['inputs'], stage='pre_logits')
    labels = torch.cat([sample.gt_label for sample in samples])
    stats = ClassStatistics(10, 6)
    stats.update(features, labels)
    second = SecondPass(stats, *linear_map(runner.model.head))
    second.update(features, labels)
    expected, reasons = collapse_measures(stats, linear_map(runner.model.head)[0], second=second)
    found = curves(work_dir)[-1]
    for name, value in expected.items():
        if name not in reasons:
            assert found[PREFIX + name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    assert expected['nc4_agreement'] == found[PREFIX + 'nc4_agreement'] and expected['nc1'] > 0


def test_metric_in_the_validation(hooked):
    runner, work_dir = hooked
    values = {}
    for line in next(Path(work_dir).glob('*/vis_data/scalars.json')).read_text().splitlines():
        values.update({k: v for k, v in json.loads(line).items() if k.startswith('neural_collapse/')})
    assert values['neural_collapse/num_samples'] == len(runner.val_dataloader.dataset)
    assert math.isnan(values['neural_collapse/nc4_agreement']) and values['neural_collapse/nc3'] > 0
    metric = runner.val_evaluator.metrics[1]
    assert metric.reasons['nc4_agreement'] == 'needs a second pass over the samples'
    assert metric._layer is None and not runner.model.head._forward_pre_hooks  # nothing is left on the model


def test_by_iteration_with_a_subset(tmp_path):
    runner = run(tmp_path, dict(interval=4, by_epoch=False, max_per_class=5, second_pass=False, gnc=False))
    entries = curves(tmp_path)
    assert [entry['step'] for entry in entries] == [0, 4, 8, 10]
    assert entries[0][PREFIX + 'num_samples'] == sum(min(n, 5) for n in runner.train_dataloader.dataset.num_per_class)
    assert PREFIX + 'nc4_agreement' not in entries[0] and PREFIX + 'gnc1' not in entries[0]
    assert PREFIX + 'nc3' in entries[0]


def test_undisturbed():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout())
    model[0].eval()  # frozen
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    with undisturbed(model):
        assert not any(module.training for module in model.modules()) and not torch.is_grad_enabled()
        torch.rand(5), np.random.rand(5), random.random()
    assert [module.training for module in model.modules()] == [True, False, True]
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == expected


def test_data_without_augmentation():
    settings = dict(split='train', n_max=40, imb_factor=10, size=8, pipeline=[dict(type='PackInputs')])
    dataset, pipeline = DigitsLT(**settings), object()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        fold = KFoldDataset(dict(settings, type='DigitsLT'), fold=0, num_splits=4)
    for wrapped, size in ((RepeatDataset(dataset, 3), len(dataset)), (Subset(dataset, [1, 5]), 2),
                          (ConcatDataset([dataset, dataset]), 2 * len(dataset)),
                          (fold, len(dataset) - len(dataset) // 4)):
        assert len(without_augmentation(wrapped, pipeline)) == size
    plain = without_augmentation(dataset, pipeline)
    assert plain.pipeline is pipeline and plain.test_mode and dataset.pipeline is not pipeline
    subset = stratified(dataset, 7, seed=0)
    labels = np.asarray(dataset.get_gt_labels())
    chosen = np.asarray(subset.indices)
    assert np.bincount(labels[chosen]).tolist() == [min(n, 7) for n in dataset.num_per_class]
    assert len(set(subset.indices)) == len(subset) and subset.indices == stratified(dataset, 7, 0).indices
    assert subset.indices != stratified(dataset, 7, 1).indices
    with pytest.raises(TypeError, match=r'\(max_per_class=7; None takes all images\) needs one integer label'):
        stratified([0, 1], 7, 0)


def test_bad_settings(tmp_path):
    for name in ('interval', 'max_per_class', 'batch_size'):
        with pytest.raises(ValueError, match=f'`{name}` of NeuralCollapseHook must be a positive integer, but got 0'):
            NeuralCollapseHook(**{name: 0})
    with pytest.raises(ValueError, match='set pipeline=.* and batch_size='):
        run(tmp_path, {}, val_dataloader=None, val_cfg=None, val_evaluator=None)


@pytest.mark.parametrize('validation', [True, False])
def test_device_augmentation_leaves_the_measures_alone(tmp_path, validation):
    """The images are measured as they are, also where the training set hands out whole batches to be augmented."""
    without = {} if validation else dict(val_dataloader=None, val_cfg=None, val_evaluator=None)
    hook = {} if validation else dict(pipeline=[dict(type='PackInputs')], batch_size=100)
    first = []
    for name, hooks in (('plain', []), ('device', [dict(type='DeviceAugmentationHook')])):
        custom = [*hooks, dict(type='NeuralCollapseHook', **hook)]
        run(tmp_path / name, custom_hooks=custom, randomness=dict(seed=3), **without)
        first.append(curves(tmp_path / name)[0])
    assert first[0]['step'] == 0 and first[0][f'{PREFIX}nc1'] > 0
    assert first[0] == pytest.approx(first[1], rel=1e-4)


def test_epochs_need_an_epoch_based_loop(tmp_path):
    with pytest.raises(ValueError, match='counts epochs, but the training loop is object; set by_epoch=False'):
        NeuralCollapseHook().before_train(SimpleNamespace(train_loop=object()))
