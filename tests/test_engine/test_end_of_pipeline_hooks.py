"""DeviceAugmentationHook and CleanBNHook in real trainings of a few seconds."""
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from allnc_mm.datasets import DigitsLT
from allnc_mm.engine.hooks import CleanBNHook, DeviceAugmentationHook
from allnc_mm.registry import MODELS

TINY = Path(__file__).resolve().parents[1] / 'data' / 'tiny_digits.py'


class Cut(Exception):
    pass


class Watch(Hook):
    """Keeps what the model is given; cuts the run at an iteration."""

    def __init__(self, cut_at=None):
        self.cut_at, self.inputs = cut_at, []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.cut_at:
            raise Cut

    def before_train(self, runner):
        forward = runner.model.loss

        def keeping(inputs, data_samples, **kwargs):
            self.inputs.append((inputs.clone(), torch.cat([sample.gt_label for sample in data_samples])))
            return forward(inputs, data_samples, **kwargs)

        runner.model.loss = keeping


def run(work_dir, hooks, watch, resume=False, **loader):
    cfg = Config.fromfile(TINY)
    cfg.work_dir, cfg.resume, cfg.log_level = str(work_dir), resume, 'ERROR'
    cfg.experiment_name = uuid.uuid4().hex
    cfg.custom_hooks = [*cfg.custom_hooks, *hooks]
    cfg.train_dataloader.update(loader)
    cfg.train_cfg.max_epochs = 2
    runner = Runner.from_cfg(cfg)
    runner.register_hook(watch)
    runner.train()
    return runner


def state(work_dir):
    return CheckpointLoader.load_checkpoint(str(work_dir / 'epoch_2.pth'), logger='silent')['state_dict']


def test_device_augmentation_trains_resumes_and_needs_no_workers(tmp_path):
    hooks, whole = [dict(type='DeviceAugmentationHook')], Watch()
    runner = run(tmp_path / 'uncut', hooks, whole)
    labels = runner.train_dataloader.dataset.get_gt_labels()
    seen = torch.cat([label for _, label in whole.inputs[:len(whole.inputs) // 2]])
    assert sorted(seen.tolist()) == sorted(labels.tolist())  # an epoch is every image once
    first, second = (torch.cat([x for x, _ in part]) for part in (whole.inputs[:5], whole.inputs[5:]))
    assert first.shape[1:] == (3, 8, 8) and not torch.equal(first[:5], second[:5])
    assert first.min() >= (0 - 64) / 80 - 1e-5 and first.max() > 1  # normalised by the model's own preprocessor
    assert not any('data_preprocessor' in key for key in state(tmp_path / 'uncut'))

    with pytest.raises(Cut):
        run(tmp_path / 'cut', hooks, Watch(cut_at=7), num_workers=2, persistent_workers=True)
    run(tmp_path / 'cut', hooks, Watch(), resume=True)
    uncut, resumed = state(tmp_path / 'uncut'), state(tmp_path / 'cut')
    assert uncut.keys() == resumed.keys() and all(torch.equal(uncut[key], resumed[key]) for key in uncut)


def test_clean_statistics_are_those_of_the_training_images(tmp_path):
    """Naive: the statistics of the first BatchNorm over the whole training set, with the weights that were saved."""
    runner = run(tmp_path, [dict(type='CleanBNHook', batch_size=1000)], Watch())
    model, dataset = runner.model, runner.train_dataloader.dataset
    saved = state(tmp_path)
    name, norm = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d))
    convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    dataset.set_epoch(1, runner.seed)  # the crops of the last epoch, drawn for the batch of all images
    batch = torch.stack([sample['inputs'] for sample in dataset.__getitems__(
        list(DefaultOrder(runner)))]).float()
    with torch.no_grad():
        out = convolution((batch - 64) / 80).transpose(0, 1).flatten(1)
    assert torch.allclose(saved[f'{name}.running_mean'], out.mean(1), atol=1e-4)
    assert torch.allclose(saved[f'{name}.running_var'], out.var(1), rtol=1e-3)
    run(tmp_path / 'without', [], Watch())
    plain = state(tmp_path / 'without')
    changed = {key for key in plain if not torch.equal(plain[key], saved[key])}
    assert changed and all('running' in key or 'tracked' in key for key in changed)  # no weight


def test_clean_statistics_of_two_views():
    """The large configs of AllNC: each image twice, in one batch."""
    crop = dict(type='RandomCrop', crop_size=8, padding=1)
    views = [dict(type='MultiView', num_views=[2], transforms=[[crop]]), dict(type='PackInputs')]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        dataset = DigitsLT(n_max=20, imb_factor=2, size=8, pipeline=views)
        model = MODELS.build(dict(
            type='AllNC', num_views=2, backbone=dict(type='ResNetCIFAR6n2', depth=20, base_channels=4),
            neck=dict(type='GlobalAveragePooling'), head=dict(type='AllNCHead', num_classes=10, in_channels=16)))
    loader = SimpleNamespace(dataset=dataset, collate_fn=default_collate)
    seen = []
    model.backbone.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].clone()))
    CleanBNHook(batch_size=1000).after_train_epoch(SimpleNamespace(
        epoch=1, max_epochs=2, train_dataloader=loader, seed=0, model=model.train(), hooks=[], logger='silent'))
    images, = seen
    assert len(images) == 2 * len(dataset)
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    convolution = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        out = convolution(images).transpose(0, 1).flatten(1)
    assert torch.allclose(norm.running_mean, out.mean(1), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize('update_buffers', [False, True])
def test_clean_statistics_are_those_of_the_moving_average(tmp_path, update_buffers):
    """With EMAHook the saved model is the average: its statistics belong to its weights, not to those in training."""
    average = dict(type='EMAHook', momentum=0.1, update_buffers=update_buffers)
    hooks = [dict(type='CleanBNHook', batch_size=1000), average, dict(type='DeviceAugmentationHook')]
    runner = run(tmp_path, hooks, Watch())
    saved = CheckpointLoader.load_checkpoint(str(tmp_path / 'epoch_2.pth'), logger='silent')
    weights, others = saved['state_dict'], saved['ema_state_dict']
    norms = [key for key in weights if key.endswith('running_mean')]
    model = runner.model
    own = model.state_dict()  # with which EMAHook validates, unless the buffers are averaged, too
    assert norms and all(torch.equal(weights[key], own[key]) for key in norms)
    model.load_state_dict(weights)
    CleanBNHook(batch_size=1000).after_train_epoch(SimpleNamespace(
        epoch=1, max_epochs=2, train_dataloader=runner.train_dataloader, seed=runner.seed, model=model.train(),
        hooks=[], logger='silent'))
    again = model.state_dict()
    assert all(torch.allclose(weights[key], again[key], atol=1e-4) for key in norms)
    assert any(not torch.equal(weights[key], others[f'module.{key}']) for key in weights if key.endswith('weight'))


def test_a_short_last_batch_does_not_count_as_much_as_the_others(tmp_path):
    """One image more than a whole batch: the statistics of that one are none."""
    runner = run(tmp_path / 'all', [dict(type='CleanBNHook', batch_size=1000)], Watch())
    size = len(runner.train_dataloader.dataset)
    run(tmp_path / 'short', [dict(type='CleanBNHook', batch_size=size - 1)], Watch())
    whole, short = state(tmp_path / 'all'), state(tmp_path / 'short')
    variances = [(whole[key], short[key]) for key in whole if 'running_var' in key]
    off = max(((a - b).abs() / (a + 1e-3)).max().item() for a, b in variances)
    assert variances and off < 0.5  # other crops: .17; with the single image as a batch: 3.3


def DefaultOrder(runner):
    from mmengine.dataset import DefaultSampler
    return iter(DefaultSampler(runner.train_dataloader.dataset, shuffle=True, seed=runner.seed))


def test_clean_bn_refuses():
    with pytest.raises(ValueError, match='num_samples.*>= 1.*0 and 4'):
        CleanBNHook(num_samples=0, batch_size=4)
    with pytest.raises(ValueError, match='by_epoch=True'):
        CleanBNHook().before_train(SimpleNamespace(train_loop=object()))


def test_device_augmentation_refuses():
    with pytest.raises(ValueError, match='by_epoch=True'):
        DeviceAugmentationHook().before_train(SimpleNamespace(train_loop=object()))


def test_device_augmentation_refuses_a_recipe_that_changes(tmp_path):
    switch = dict(type='SwitchRecipeHook', schedule=[dict(action_epoch=2, batch_augments=None)])
    with pytest.raises(ValueError, match='SwitchRecipeHook changes pipeline and batch augmentation'):
        run(tmp_path, [dict(type='DeviceAugmentationHook'), switch], Watch())


def test_statistics_are_cleaned_once_after_the_last_epoch(tmp_path, monkeypatch):
    epochs = []
    monkeypatch.setattr('allnc_mm.engine.hooks.clean_bn_hook.update_bn_stats', lambda *args, **kwargs: epochs.append(1))
    run(tmp_path, [dict(type='CleanBNHook')], Watch())
    assert len(epochs) == 1
