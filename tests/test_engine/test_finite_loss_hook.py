import os
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import allnc_mm  # noqa: F401
from allnc_mm.engine.hooks import FiniteLossHook
from allnc_mm.engine.launch import leave_process_group


class Numbers(Dataset):
    metainfo = {}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(inputs=torch.ones(1))


class Astray(BaseModel):
    """Two losses, one of which is ``value`` from the given step on; and a monitor that is never finite."""

    def __init__(self, step=None, value=float('nan'), rank=None, gradient_only=False):
        super().__init__()
        self.fc = nn.Linear(1, 1)
        self.step, self.value, self.rank, self.gradient_only = step, value, rank, gradient_only
        self.calls = 0

    def forward(self, inputs, mode):
        self.calls += 1
        loss = self.fc(torch.stack(list(inputs))).square().mean()
        here = self.calls == self.step and (self.rank is None or dist.get_rank() == self.rank)
        if here and self.gradient_only:  # sqrt'(0) is infinite: a finite loss, an infinite gradient
            loss = loss + (self.fc.weight * 0).abs().sqrt().sum()
        extra = torch.tensor(self.value if here and not self.gradient_only else 0.5)
        return dict(loss_a=loss, loss_b=extra, cosine=torch.tensor(float('nan')))


def make_runner(work_dir, model, interval=10, by_epoch=True, save=100, epochs=2, **kwargs):
    hook = HOOKS.build(dict(type='FiniteLossHook', interval=interval))
    return Runner(
        model, work_dir=str(work_dir), experiment_name=os.path.basename(str(work_dir)) + str(id(model)),
        train_dataloader=dict(dataset=Numbers(), batch_size=2, num_workers=0,
                              sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=epochs) if by_epoch else dict(by_epoch=False, max_iters=4 * epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), custom_hooks=[hook], log_level='ERROR',
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=by_epoch, interval=save)), **kwargs)


def saved(work_dir):
    return sorted(path.name for path in work_dir.glob('*.pth'))


def test_a_sound_run_is_left_alone_and_log_vars_are_tensors(tmp_path, monkeypatch):
    seen = []
    original = FiniteLossHook.after_train_iter

    def spy(self, runner, batch_idx, data_batch=None, outputs=None):
        seen.append(outputs)
        original(self, runner, batch_idx, data_batch, outputs)

    monkeypatch.setattr(FiniteLossHook, 'after_train_iter', spy)
    make_runner(tmp_path, Astray(), interval=1).train()
    assert len(seen) == 8 and 'epoch_2.pth' in saved(tmp_path)
    assert all(isinstance(seen[0][name], torch.Tensor) for name in ('loss', 'loss_a', 'loss_b'))


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_it_names_the_first_iteration_and_every_component(tmp_path, value):
    runner = make_runner(tmp_path, Astray(step=3, value=value))
    with pytest.raises(FloatingPointError, match=r'in iteration 3, in: loss_b, loss\..*learning rate.*clip.*--resume'):
        runner.train()
    assert runner.iter == 4 and saved(tmp_path) == []  # noticed at the epoch's end, before CheckpointHook


def test_interval_is_when_the_host_looks(tmp_path):
    runner = make_runner(tmp_path, Astray(step=1), interval=2)
    with pytest.raises(FloatingPointError, match='in iteration 1, in: loss_b, loss'):
        runner.train()
    assert runner.iter == 1  # counted from 0: the second iteration


def test_an_iteration_based_run_never_saves_a_model_gone_astray(tmp_path):
    runner = make_runner(tmp_path, Astray(step=4), interval=1000, by_epoch=False, save=2)
    with pytest.raises(FloatingPointError, match='iteration 4'):
        runner.train()
    assert saved(tmp_path) == ['iter_2.pth']


def test_an_infinite_gradient_in_the_last_step_is_caught_before_saving(tmp_path):
    runner = make_runner(tmp_path, Astray(step=4, gradient_only=True), epochs=1)
    with pytest.raises(FloatingPointError, match=r'weights became NaN or infinite by iteration 4, in: fc\.weight'):
        runner.train()
    assert saved(tmp_path) == []


def test_it_precedes_the_hooks_that_keep_weights(tmp_path):
    runner = make_runner(tmp_path, Astray())
    order = [type(hook) for hook in runner.hooks]
    assert order.index(FiniteLossHook) < order.index(CheckpointHook)
    assert FiniteLossHook.priority == 'ABOVE_NORMAL'  # EMAHook is NORMAL


def test_the_records_stay_on_the_device(monkeypatch):
    """No value is read back outside the interval: fake tensors cannot be read at all."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    hook = FiniteLossHook(interval=1000)
    hook._savers = []
    with FakeTensorMode():
        runner = type('Runner', (), dict(model=nn.Linear(1, 1), iter=0))
        for runner.iter in range(3):
            hook.after_train_iter(runner, 0, outputs=OrderedDict(loss=torch.ones(()), loss_a=torch.ones(())))
    assert list(hook._first) == [('loss', 'loss_a')]


@pytest.mark.parametrize('interval', [0, -1, 2.5])
def test_interval_is_checked(interval):
    with pytest.raises(ValueError, match='`interval` of FiniteLossHook.*>= 1'):
        FiniteLossHook(interval=interval)


def _train_on_two_ranks(rank, folder):
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    os.environ['LOCAL_RANK'] = str(rank)
    model = Astray(step=2, rank=1)
    runner = make_runner(folder, model, interval=3, launcher='pytorch',
                         cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)))
    try:
        runner.train()
        outcome = 'finished'
    except FloatingPointError as error:
        outcome = str(error)
    with open(f'{folder}/rank{rank}.txt', 'w') as file:
        file.write(f'{runner.iter} {outcome}')
    leave_process_group()


@pytest.mark.slow
def test_all_ranks_stop_together(tmp_path, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.setattr('sys.argv', ['test'])
    mp.spawn(_train_on_two_ranks, (str(tmp_path), ), nprocs=2)
    outcomes = [(tmp_path / f'rank{rank}.txt').read_text() for rank in range(2)]
    assert outcomes[0] == outcomes[1]  # the same iteration, the same words
    assert 'in iteration 2, in: loss_b, loss.' in outcomes[0]


def test_an_infinite_gradient_is_caught_before_an_iteration_is_saved(tmp_path):
    runner = make_runner(tmp_path, Astray(step=4, gradient_only=True), interval=1000, by_epoch=False, save=2)
    with pytest.raises(FloatingPointError, match='weights became NaN or infinite by iteration 4'):
        runner.train()
    assert saved(tmp_path) == ['iter_2.pth']


@pytest.mark.parametrize('gradient_only', [False, True])
def test_a_validation_looks_first(gradient_only):
    """CheckpointHook may save the best model after it."""
    hook, model = FiniteLossHook(interval=1000), Astray()
    runner = SimpleNamespace(iter=0, model=model, hooks=[])
    hook.before_train(runner)
    hook.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(1.0 if gradient_only else float('nan'))))
    if gradient_only:
        model.fc.weight.data.fill_(float('inf'))
    with pytest.raises(FloatingPointError, match=f'iteration 1, in: {"fc.weight" if gradient_only else "loss"}'):
        hook.before_val(runner)
