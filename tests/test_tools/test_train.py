import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop

from allnc_mm.datasets import DigitsLT
from allnc_mm.engine import launch
from allnc_mm.engine.hooks import DeviceAugmentationHook

ROOT = Path(__file__).resolve().parents[2]
TINY = str(ROOT / 'tests' / 'data' / 'tiny_digits.py')


def load_tool(name):
    spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train, test = load_tool('train'), load_tool('test')


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')


def merged(*options):
    args = train.parse_args([TINY, *options])
    return train.merge_args(launch.load_config(args), args)


def run_tool(tool, *options):
    return subprocess.run([sys.executable, str(ROOT / 'tools' / f'{tool}.py'), *map(str, options)], text=True,
                          capture_output=True, env=dict(os.environ, OMP_NUM_THREADS='1'))


# ---------- options
def test_plain():
    cfg = merged()
    assert cfg.work_dir == os.path.join('work_dirs', 'tiny_digits') and cfg.launcher == 'none'
    assert cfg.optim_wrapper.type == 'OptimWrapper' and not cfg.get('resume') and cfg.val_cfg is not None
    assert cfg.train_dataloader.pin_memory is torch.cuda.is_available()
    assert cfg.train_dataloader.persistent_workers is False  # no workers
    assert cfg.train_dataloader.collate_fn.type == cfg.test_dataloader.collate_fn.type == 'default_collate'


def test_mmpretrain_options():
    cfg = merged('--work-dir', 'here', '--amp', '--no-validate', '--auto-scale-lr', '--launcher', 'slurm')
    assert cfg.work_dir == 'here' and cfg.launcher == 'slurm' and cfg.auto_scale_lr.enable
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and cfg.optim_wrapper.loss_scale == 'dynamic'
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None
    for spelling in ('--local-rank', '--local_rank'):
        assert train.parse_args([TINY, spelling, '3']).local_rank == 3


def test_local_rank_is_exported_unless_the_launcher_did(monkeypatch):
    merged('--local-rank', '3')
    assert os.environ['LOCAL_RANK'] == '0'
    monkeypatch.delenv('LOCAL_RANK')
    merged('--local-rank', '3')
    assert os.environ['LOCAL_RANK'] == '3'


def test_loaders_see_the_overridden_number_of_workers():
    cfg = merged('--cfg-options', 'train_dataloader.num_workers=2')
    assert cfg.train_dataloader.persistent_workers is True and cfg.val_dataloader.persistent_workers is False
    cfg = merged('--cfg-options', 'train_dataloader.num_workers=2', '--no-persistent-workers')
    assert cfg.train_dataloader.persistent_workers is False


def test_memory_is_pinned_for_cuda_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert merged().train_dataloader.pin_memory is True
    assert merged('--no-pin-memory').train_dataloader.pin_memory is False
    assert merged('--cfg-options', 'train_dataloader.pin_memory=False').train_dataloader.pin_memory is False
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert merged('--cfg-options', 'train_dataloader.pin_memory=True').train_dataloader.pin_memory is False


def test_segmentation_keeps_its_collate_fn():
    assert 'collate_fn' not in merged('--cfg-options', 'default_scope=mmseg').train_dataloader


def test_amp_refuses_another_wrapper():
    assert merged('--amp', '--cfg-options', 'optim_wrapper.type=BFloat16OptimWrapper').optim_wrapper.type == \
        'BFloat16OptimWrapper'
    with pytest.raises(SystemExit, match='the config has ApexOptimWrapper; drop --amp'):
        merged('--amp', '--cfg-options', 'optim_wrapper.type=ApexOptimWrapper')


def test_auto_scale_lr_needs_a_base():
    with pytest.raises(SystemExit, match='auto_scale_lr=dict.base_batch_size'):
        args = train.parse_args([TINY, '--auto-scale-lr'])
        cfg = launch.load_config(args)
        cfg.pop('auto_scale_lr')
        train.merge_args(cfg, args)


# ---------- resume
def test_resume_of_a_named_checkpoint():
    cfg = merged('--resume', 'some.pth')
    assert cfg.resume is True and cfg.load_from == 'some.pth'


def test_automatic_resume_takes_the_latest(tmp_path):
    (tmp_path / 'epoch_1.pth').touch()
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    cfg = merged('--work-dir', str(tmp_path), '--resume', '--cfg-options', 'load_from=pretrained.pth')
    assert cfg.resume is True and cfg.load_from == str(tmp_path / 'epoch_1.pth')


def test_automatic_resume_of_an_empty_folder_starts_with_the_pretrained_weights(tmp_path, capsys):
    cfg = merged('--work-dir', str(tmp_path), '--resume', '--cfg-options', 'load_from=pretrained.pth')
    assert not cfg.get('resume') and cfg.load_from == 'pretrained.pth'
    assert f'Nothing to resume in {tmp_path}' in capsys.readouterr().out


@pytest.mark.parametrize('content', ['', '/moved/away/epoch_9.pth'], ids=['torn', 'moved'])
def test_the_newest_checkpoint_counts_when_last_checkpoint_is_wrong(tmp_path, content):
    for age, name in enumerate(('epoch_10.pth', 'epoch_9.pth')):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age, ) * 2)
    (tmp_path / 'best_accuracy_epoch_11.pth').touch()  # without an optimizer
    (tmp_path / 'last_checkpoint').write_text(content)
    assert launch.latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_10.pth')


def test_a_copied_folder_has_its_own_checkpoint(tmp_path):
    for name in ('run', 'copy [lr=0.1]'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'epoch_3.pth').touch()
        (tmp_path / name / 'last_checkpoint').write_text(str(tmp_path / 'run' / 'epoch_3.pth'))
    copy = tmp_path / 'copy [lr=0.1]'
    assert launch.latest_checkpoint(str(copy)) == str(copy / 'epoch_3.pth')
    (copy / 'last_checkpoint').unlink()
    assert launch.latest_checkpoint(str(copy)) == str(copy / 'epoch_3.pth')  # brackets are no pattern


# ---------- errors
def fails(capsys, function, *args, **kwargs):
    with pytest.raises(SystemExit) as info, launch.readable_errors():
        function(*args, **kwargs)
    return info.value.code, capsys.readouterr().err


def test_an_error_of_ours_is_one_line(capsys):
    code, message = fails(capsys, DigitsLT, size=3)
    assert code == 1 and message.startswith('ValueError: ') and '`size`' in message and message.count('\n') == 1


def test_a_missing_file_is_one_line(capsys):
    code, message = fails(capsys, open, '/no/such/file')
    assert code == 1 and message.count('\n') == 1 and '/no/such/file' in message


def test_a_type_error_of_a_hook_is_one_line(capsys):
    def hook():
        try:  # as Runner.call_hook does
            DeviceAugmentationHook().before_train(SimpleNamespace(
                train_loop=EpochBasedTrainLoop.__new__(EpochBasedTrainLoop), hooks=[],
                train_dataloader=SimpleNamespace(dataset=[1])))
        except TypeError as error:
            raise TypeError(f'{error} in {DeviceAugmentationHook}') from None

    code, message = fails(capsys, hook)
    assert code == 1 and message.startswith('TypeError: DeviceAugmentationHook needs') and message.count('\n') == 1


@pytest.mark.parametrize('bug', [
    lambda: [][0], lambda: torch.ones(2) @ torch.ones(3),
    lambda: DigitsLT(size='16'), lambda: json.loads('{'), lambda: Config(dict(a=1)).b])
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises(Exception) as info, launch.readable_errors():
        bug()
    assert not isinstance(info.value, SystemExit)


@pytest.mark.parametrize('tool, options', [('train', ()), ('test', ('checkpoint.pth', ))])
def test_a_wrong_config_path_is_one_line_and_2(tool, options, capsys):
    args = argparse.Namespace(config='configs/nope.py')
    with pytest.raises(SystemExit) as info:
        launch.load_config(args)
    assert info.value.code == 2
    done = run_tool(tool, 'configs/nope.py', *options)
    assert done.returncode == 2 and done.stderr == capsys.readouterr().err
    assert done.stderr.startswith('Config configs/nope.py does not exist') and done.stderr.count('\n') == 1


@pytest.mark.slow
def test_a_data_error_ends_the_training_with_one_line(tmp_path):
    done = run_tool('train', TINY, '--work-dir', tmp_path, '--cfg-options', 'train_dataloader.dataset.imb_factor=-1')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert done.stderr.splitlines()[-1].startswith('ValueError: ') and 'imb_factor' in done.stderr.splitlines()[-1]


# ---------- end to end
@pytest.mark.slow
def test_train_and_test(tmp_path):
    done = run_tool('train', TINY, '--work-dir', tmp_path, '--amp')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'epoch_3.pth').exists() and 'BFloat16OptimWrapper' in (tmp_path / 'tiny_digits.py').read_text()
    logged = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    validated = [json.loads(line) for line in logged][-1]['accuracy/top1']
    done = run_tool('test', TINY, tmp_path / 'epoch_3.pth', '--work-dir', tmp_path / 'test', '--out',
                    tmp_path / 'metrics.json', '--out-item', 'metrics')
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / 'metrics.json').read_text())['accuracy/top1'] == pytest.approx(validated)
    done = run_tool('test', TINY, tmp_path / 'epoch_3.pth', '--work-dir', tmp_path / 'test', '--amp', '--out',
                    tmp_path / 'pred.pkl')
    assert done.returncode == 0, done.stderr
    import mmengine
    predictions = mmengine.load(tmp_path / 'pred.pkl')
    assert len(predictions) == 500
    agree = sum(int(p['pred_label']) == int(p['gt_label']) for p in predictions) / 5
    assert agree == pytest.approx(validated, abs=2)  # bfloat16 moves a few borderline digits
    done = run_tool('test', TINY, tmp_path / 'epoch_3.pth', '--work-dir', tmp_path / 'test', '--tta', '--out',
                    tmp_path / 'tta.pkl')
    assert done.returncode == 0, done.stderr
    mirrored = mmengine.load(tmp_path / 'tta.pkl')
    assert len(mirrored) == 500 and any((a['pred_score'] - b['pred_score']).abs().max() > 1e-3
                                        for a, b in zip(predictions, mirrored))
    done = run_tool('test', TINY, tmp_path / 'epoch_3.pth', '--work-dir', tmp_path / 'test', '--interval', 100,
                    '--show-dir', tmp_path / 'shown')
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / 'shown').glob('*'))) == 5
    done = run_tool('test', TINY, tmp_path / 'epoch_3.pth', '--out', tmp_path / 'metrics.txt', '--out-item', 'metrics')
    assert done.returncode == 2 and '--out must end in .pkl or .json or .yaml or .yml' in done.stderr
    done = run_tool('test', TINY, tmp_path / 'epoch_4.pth', '--work-dir', tmp_path / 'test')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert done.stderr.splitlines()[-1].startswith('FileNotFoundError: ') and 'epoch_4.pth' in done.stderr
