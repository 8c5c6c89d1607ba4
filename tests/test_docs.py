"""The how-tos do what they say: every block of code in them is run."""
import operator
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

import allnc_mm  # noqa: F401
from allnc_mm.registry import MODELS
from allnc_mm.visualization.runs import build_model

ROOT = Path(__file__).resolve().parents[1]


def blocks(page, language, folder='docs'):
    return re.findall(rf'```{language}\n(.*?)```', (ROOT / folder / page).read_text(), flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.data
def test_own_data(cifar_root, tmp_path, monkeypatch):
    """Real images, three classes of CIFAR-10 with 60, 20 and 6 training images; two epochs instead of 160."""
    from PIL import Image
    with np.load(cifar_root / 'cifar10' / 'train.npz', allow_pickle=False) as pack:
        images, labels = pack['images'], pack['labels']
    for k, (name, count) in enumerate((('cat', 60), ('lynx', 6), ('robin', 20))):
        for i, image in enumerate(images[labels == k][:count + 8]):
            file = tmp_path / 'data/birds' / ('train' if i < count else 'val') / name / f'{i:04}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    config, large = blocks('own_data.md', 'python')
    assert len(config.splitlines()) == 10
    (tmp_path / 'birds.py').write_text(config)
    commands = [command.strip() for command in blocks('own_data.md', 'bash')]
    tools = [Path(command.split()[1]).name for command in commands]
    assert tools == ['class_stats.py', 'train.py', 'collapse_report.py']
    for command in commands:
        words = shlex.split(command.replace('epoch_160', 'epoch_2'))
        if words[1].endswith('train.py'):
            words += ['--cfg-options', 'train_cfg.max_epochs=2', 'default_hooks.checkpoint.interval=2']
        done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True,
                              env=dict(os.environ, OMP_NUM_THREADS='1'))
        assert done.returncode == 0, done.stderr[-2000:]
    page = (tmp_path / 'work_dirs/birds/report/report.html').read_text()
    assert all(name in page for name in ('cat', 'lynx', 'robin'))

    # the config for large images: its model and its data, and a batch through both
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'large.py').write_text(large)
    cfg = Config.fromfile('large.py')
    assert cfg.model.backbone.pop('init_cfg').checkpoint == 'resnet50.pth'
    cfg.model.backbone.depth = 18
    cfg.model.head.update(in_channels=512, projector=None, predictor=None, proj_channels=None)
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = build_model(cfg)
        train, val = (Runner.build_dataloader(cfg[f'{split}_dataloader'], seed=0) for split in ('train', 'val'))
    assert val.dataset.metainfo['classes'] == ('cat', 'lynx', 'robin')
    assert val.dataset[0]['inputs'].shape == (3, 224, 224)
    for loss in (model.head.loss_uniform, model.head.loss_module):
        loss.set_class_counts([60, 6, 20])
    data = model.data_preprocessor(next(iter(train)), training=True)
    assert data['inputs'].shape == (8, 3, 224, 224)  # two views of two pairs
    losses = model(**data, mode='loss')
    assert all(torch.isfinite(value) for name, value in losses.items() if 'loss' in name)


@pytest.mark.parametrize('number', [0, 1])
def test_other_backbone(number, tmp_path):
    """The config as printed, but with a small backbone and other data, fine-tunes a checkpoint on mixed images."""
    file = tmp_path / 'mine.py'
    file.write_text(blocks('other_backbone.md', 'python')[number])
    assert file.read_text().startswith('_base_') and len(file.read_text().splitlines()) <= 6
    cfg = Config.fromfile(file)
    small = dict(arch='atto', drop_path_rate=0) if number == 0 else dict(
        arch=dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=32), img_size=32, patch_size=16)
    cfg.model.backbone.update(small)
    cfg.model.backbone.pop('init_cfg', None)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        assert MODELS.build(cfg.model.head).num_classes == cfg.data_preprocessor.num_classes == 100  # as printed
        cfg.model.head.update(num_classes=10, in_channels=320 if number == 0 else 32)
        pretrained = MODELS.build(cfg.model.backbone)
    torch.save({f'backbone.{name}': value for name, value in pretrained.state_dict().items()}, tmp_path / 'stock.pth')
    cfg.merge_from_dict(dict(
        train_dataloader=dict(dataset=dict(_delete_=True, type='DigitsLT', size=32, pipeline=[dict(type='PackInputs')]),
                              num_workers=0, persistent_workers=False, batch_size=138),
        val_dataloader=None, val_evaluator=None, val_cfg=None, test_dataloader=None, test_evaluator=None,
        test_cfg=None, custom_hooks=[dict(type='FiniteLossHook')], work_dir=str(tmp_path / 'run'),
        load_from=str(tmp_path / 'stock.pth'), experiment_name=f'{tmp_path.name}{number}', default_scope='mmpretrain',
        train_cfg=dict(max_epochs=1), param_scheduler=None))
    with pytest.raises(ValueError, match='one-hot labels of 100 classes, .* 10 classes; set data_preprocessor.num_cl'):
        Runner.from_cfg(cfg).train()
    cfg.data_preprocessor.num_classes = 10
    cfg.experiment_name += 'fit'
    runner = Runner.from_cfg(cfg)
    assert runner.model.data_preprocessor.batch_augments is not None
    runner.load_or_resume()
    name = next(name for name, parameter in pretrained.named_parameters() if parameter.requires_grad)
    assert torch.equal(dict(runner.model.backbone.named_parameters())[name], pretrained.state_dict()[name])
    runner.train()
    logged = runner.message_hub.log_scalars
    assert ('train/loss_p2p' in logged) == (number == 1) and len(logged['train/loss'].data[0]) == 2
    assert not torch.equal(dict(runner.model.backbone.named_parameters())[name], pretrained.state_dict()[name])


def without_scope(node):
    """A part of a config without mmengine's marks of the package it came from."""
    if isinstance(node, dict):
        return {key: without_scope(value) for key, value in node.items() if key != '_scope_'}
    return [without_scope(item) for item in node] if isinstance(node, list) else node


def test_segmentation(tmp_path):
    """The config of one's own has the model, sampler and hooks of ours on another architecture."""
    config, = blocks('README.md', 'python', 'configs/seg')
    (tmp_path / 'mine.py').write_text(config)
    mine = Config.fromfile(tmp_path / 'mine.py')
    ours = Config.fromfile(ROOT / 'configs/seg/deeplabv3plus_r50-d8_cityscapes_allnc.py')
    for key in ('default_hooks.class_counts', 'default_hooks.attach_metrics', 'default_hooks.gbbn', 'custom_hooks',
                'train_dataloader.batch_sampler', 'model.type', 'model.geometry', 'model.loss_rebalanced'):
        found, expected = (without_scope(operator.attrgetter(key)(cfg)) for cfg in (mine, ours))
        assert found == expected, key
    assert 'RareClassCrop' in [t['type'] for t in mine.train_dataloader.dataset.pipeline]
    mine.model.pretrained = None
    mine.model.backbone.depth = 18
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert MODELS.build(mine.model).bilateral


def test_speed(tmp_path):
    """The four lines together train a digits epoch; compiled by torch's eager backend, which needs no compiler."""
    from allnc_mm.models.utils.device_augmentation import DeviceAugmentation
    block, = blocks('speed.md', 'python')
    assert 'compile = True' in block
    file = tmp_path / 'fast.py'
    file.write_text("_base_ = 'allnc_mm::ce/resnet20_digits-lt.py'\n"
                    + block.replace('compile = True', "compile = dict(backend='eager')"))
    cfg = Config.fromfile(file)
    cfg.merge_from_dict(dict(work_dir=str(tmp_path), train_cfg=dict(max_epochs=1), experiment_name=tmp_path.name,
                             val_cfg=None, val_dataloader=None, val_evaluator=None, log_level='ERROR'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        runner = Runner.from_cfg(cfg)
        model = runner.train()
    assert type(runner.optim_wrapper).__name__ == 'BFloat16OptimWrapper'
    assert isinstance(model.data_preprocessor, DeviceAugmentation)
    assert model.data_preprocessor.wrapped.memory_format == torch.channels_last
    assert (tmp_path / 'epoch_1.pth').is_file()
