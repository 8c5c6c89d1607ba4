import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
TINY = ROOT / 'tests' / 'data' / 'tiny_digits.py'


def environment(**kwargs):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, **kwargs}
    for name in ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT', 'LOCAL_RANK'):
        if name not in kwargs:
            env.pop(name, None)
    return env


def script(name, *args, **env):
    return subprocess.run([str(TOOLS / name), *map(str, args)], text=True, capture_output=True, env=environment(**env))


def fake_python(tmp_path, name='python'):
    """An executable that prints its arguments, one a line."""
    path = tmp_path / name
    path.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize('name, args', [('dist_train.sh', 1), ('dist_test.sh', 2), ('slurm_train.sh', 3)])
def test_too_few_arguments_show_the_usage(name, args):
    done = script(name, *['x'] * args)
    assert done.returncode == 2 and done.stderr.startswith('usage: ') and done.stderr.count('\n') == 1


def test_one_machine_finds_a_free_port(tmp_path):
    done = script('dist_train.sh', 'a config.py', 3, '--work-dir', 'a dir', PYTHON=fake_python(tmp_path))
    assert done.stdout.splitlines() == [
        '-m', 'torch.distributed.run', '--standalone', '--local-addr=127.0.0.1', '--nproc-per-node=3',
        f'{TOOLS}/train.py', 'a config.py', '--launcher', 'pytorch', '--work-dir', 'a dir']


def test_several_machines_use_the_environment(tmp_path):
    done = script('dist_test.sh', 'c.py', 'x.pth', 8, '--out', 'o.pkl', PYTHON=fake_python(tmp_path), NNODES='2',
                  NODE_RANK='1', MASTER_ADDR='node0', PORT='1234')
    assert done.stdout.splitlines() == [
        '-m', 'torch.distributed.run', '--nnodes=2', '--node-rank=1', '--master-addr=node0', '--master-port=1234',
        '--nproc-per-node=8', f'{TOOLS}/test.py', 'c.py', 'x.pth', '--launcher', 'pytorch', '--out', 'o.pkl']


def test_slurm(tmp_path):
    fake_python(tmp_path, 'srun')
    done = script('slurm_train.sh', 'part', 'job', 'c.py', 'work', '--amp', PATH=f'{tmp_path}:{os.environ["PATH"]}',
                  GPUS='4', SRUN_ARGS='--quiet --time=1')
    assert done.stdout.splitlines() == [
        '-p', 'part', '--job-name=job', '--gres=gpu:4', '--ntasks=4', '--ntasks-per-node=4', '--cpus-per-task=5',
        '--kill-on-bad-exit=1', '--quiet', '--time=1', sys.executable, '-u', f'{TOOLS}/train.py', 'c.py',
        '--work-dir=work', '--launcher=slurm', '--amp']


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='two processes over gloo are for machines without CUDA')
def test_two_gloo_processes_train_and_test(tmp_path):
    options = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'model.backbone.norm_cfg.type=SyncBN']
    done = script('dist_train.sh', TINY, 2, '--work-dir', tmp_path, '--amp', '--cfg-options', *options)
    assert done.returncode == 0, done.stderr[-3000:]
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'Epoch(train) [1][2/3]' in log  # 5 batches over 2 processes
    assert 'accuracy/top1' in log and 'Distributed training: True' in log and 'SyncBN needs GPUs' in done.stderr
    done = script('dist_test.sh', TINY, tmp_path / 'epoch_1.pth', 2, '--work-dir', tmp_path / 'test')
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'Epoch(test) [3/3]' in next((tmp_path / 'test').glob('*/*.log')).read_text()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='two processes over gloo are for machines without CUDA')
def test_a_failing_rank_fails_the_job(tmp_path):
    done = script('dist_train.sh', TINY, 2, '--work-dir', tmp_path, '--cfg-options',
                  'train_dataloader.dataset.imb_factor=-1')
    assert done.returncode != 0 and 'ValueError: ' in done.stderr and 'imb_factor' in done.stderr
