import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader

import allnc_mm  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / 'tests' / 'data' / 'tiny_digits.py'
ALLNC = ROOT / 'configs' / 'allnc' / 'resnet20_digits-lt.py'
ITERATIONS = {TINY: 5, ALLNC: 9}  # in an epoch


class Cut(Exception):
    pass


class CutHook(Hook):

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            raise Cut


def run(config, work_dir, loader, resume=False, cut_at=None):
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.resume, cfg.log_level = str(work_dir), resume, 'ERROR'
    cfg.experiment_name = uuid.uuid4().hex
    cfg.train_cfg.update(max_epochs=3, val_interval=3)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.randomness = dict(seed=0, deterministic=True)
    cfg.train_dataloader.update(loader)
    runner = Runner.from_cfg(cfg)
    if cut_at is not None:
        runner.register_hook(CutHook(cut_at))
    runner.train()


def load(path):
    return CheckpointLoader.load_checkpoint(str(path), logger='silent')


def assert_same(first, second, where=''):
    """Bit-exact, through dicts and lists."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f'{where}.{key}')
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for i, (a, b) in enumerate(zip(first, second)):
            assert_same(a, b, f'{where}[{i}]')
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where


def assert_same_ending(uncut, resumed, last='epoch_3.pth'):
    uncut, resumed = load(uncut / last), load(resumed / last)
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(uncut[part], resumed[part], part)
    scalars = [checkpoint['message_hub']['log_scalars'] for checkpoint in (uncut, resumed)]
    for name in ('train/lr', 'train/loss'):  # the whole curve, not only its end
        assert scalars[0][name].data[0].tolist() == scalars[1][name].data[0].tolist(), name


LOADERS = {
    'main process': dict(num_workers=0),
    'workers': dict(num_workers=2, persistent_workers=False),
    'persistent workers': dict(num_workers=2, persistent_workers=True),
}
CASES = [
    pytest.param(TINY, 7, 'main process', id='ce, mid epoch, main process'),
    pytest.param(TINY, 10, 'main process', id='ce, between epochs, main process'),
    pytest.param(TINY, 7, 'workers', id='ce, mid epoch, workers', marks=pytest.mark.slow),
    pytest.param(TINY, 7, 'persistent workers', id='ce, mid epoch, persistent workers', marks=pytest.mark.slow),
    pytest.param(ALLNC, 13, 'main process', id='allnc, mid epoch, main process', marks=pytest.mark.slow),
    pytest.param(ALLNC, 9, 'workers', id='allnc, between epochs, workers', marks=pytest.mark.slow),
    pytest.param(ALLNC, 13, 'persistent workers', id='allnc, mid epoch, persistent workers', marks=pytest.mark.slow),
]


@pytest.fixture(scope='module')
def uncut(tmp_path_factory):
    """The work_dir of a config's uncut run, in the main process: no number of workers may change a bit of it."""
    folder = tmp_path_factory.mktemp('uncut')

    def once(config):
        work_dir = folder / config.parent.name
        if not work_dir.exists():
            run(config, work_dir, LOADERS['main process'])
        return work_dir

    return once


@pytest.mark.parametrize('config, cut_at, loader', CASES)
def test_a_cut_and_resumed_run_equals_the_uncut_one(tmp_path, uncut, config, cut_at, loader):
    with pytest.raises(Cut):
        run(config, tmp_path, LOADERS[loader], cut_at=cut_at)
    assert (tmp_path / 'last_checkpoint').read_text().endswith(f'epoch_{cut_at // ITERATIONS[config]}.pth')
    run(config, tmp_path, LOADERS[loader], resume=True)
    assert_same_ending(uncut(config), tmp_path)


def test_without_the_epoch_seed_the_comparison_fails(tmp_path, monkeypatch):
    """That the test above can fail: the augmentation of a resumed run is another one without EpochSeedHook."""
    from allnc_mm.engine.hooks import EpochSeedHook
    monkeypatch.setattr(EpochSeedHook, 'before_train_epoch', lambda self, runner: None)
    run(TINY, tmp_path / 'uncut', LOADERS['main process'])
    with pytest.raises(Cut):
        run(TINY, tmp_path / 'cut', LOADERS['main process'], cut_at=7)
    run(TINY, tmp_path / 'cut', LOADERS['main process'], resume=True)
    with pytest.raises(AssertionError, match='state_dict'):
        assert_same_ending(tmp_path / 'uncut', tmp_path / 'cut')


# A module of a user's that kills its own process: in the middle of an epoch, or of a checkpoint's writing.
KILLER = '''
import os
import signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

writes = 0


def fsync(handle):
    global writes
    writes += 1
    if writes == 2:
        os.truncate(handle, 1000)
        os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class Killer(Hook):

    def __init__(self):
        self.moment = os.environ.get('KILL')
        if self.moment == 'writing':
            os.fsync = fsync

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.moment == 'iteration' and runner.iter == 7:
            os.kill(os.getpid(), signal.SIGKILL)
'''


def train(folder, work_dir, *options, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'train.py'), str(folder / 'config.py'), '--work-dir', str(work_dir),
         *options], capture_output=True, text=True, cwd=folder,
        env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(folder), **environment))


@pytest.mark.slow
def test_a_killed_run_continues_from_its_last_whole_checkpoint(tmp_path):
    (tmp_path / 'killer.py').write_text(KILLER)
    (tmp_path / 'config.py').write_text(f'''
_base_ = {str(TINY)!r}
train_dataloader = dict(num_workers=1)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
custom_imports = dict(imports=['allnc_mm', 'killer'])
custom_hooks = [dict(type='EpochSeedHook'), dict(type='Killer')]
''')
    done = train(tmp_path, tmp_path / 'uncut')
    assert done.returncode == 0, done.stderr
    for moment in ('iteration', 'writing'):
        done = train(tmp_path, tmp_path / moment, KILL=moment)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert [path.name for path in (tmp_path / moment).glob('*.pth')] == ['epoch_1.pth']
        assert bool(list((tmp_path / moment).glob('*.tmp'))) == (moment == 'writing')  # the torn one
        done = train(tmp_path, tmp_path / moment, '--resume')
        assert done.returncode == 0, done.stderr
        logs = ''.join(path.read_text() for path in (tmp_path / moment).glob('*/*.log'))
        assert f'resumed epoch: 1, iter: {ITERATIONS[TINY]}' in logs
        assert sorted(path.name for path in (tmp_path / moment).iterdir() if path.is_file()) == [
            'config.py', 'epoch_3.pth', 'last_checkpoint']
        assert_same_ending(tmp_path / 'uncut', tmp_path / moment)
