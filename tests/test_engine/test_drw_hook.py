from types import SimpleNamespace

import pytest
from torch import nn

from allnc_mm.engine.hooks import ClassCountsHook, DRWHook, EpochStartHook


class Switch(nn.Module):

    def __init__(self):
        super().__init__()
        self.calls = []

    def set_reweighting(self, active):
        self.calls.append(active)

    def start_epoch(self):
        self.calls.append('epoch')


def run(hook, iterations, first=0, total=10):
    switch = Switch()
    runner = SimpleNamespace(model=nn.Sequential(nn.Identity(), switch), max_iters=total)
    hook.before_train(runner)
    active = []
    for runner.iter in range(first, iterations):
        hook.before_train_iter(runner, 0)
        active.append(switch.calls[-1])
    return active, switch.calls


def test_weights_are_switched_on_once():
    active, calls = run(DRWHook(0.8), 10)
    assert active == [False] * 8 + [True] * 2
    assert calls == [False, True]


def test_epoch_160_of_200():
    """The first iteration of epoch 160 has them, whatever the number of iterations."""
    for steps in (85, 97, 98):
        active, _ = run(DRWHook(), 161 * steps, first=160 * steps - 1, total=200 * steps)
        assert active == [False] + [True] * steps


def test_a_resumed_run_is_switched_at_once():
    hook = DRWHook(0.5)
    run(hook, 3)
    active, calls = run(hook, 10, first=9)
    assert active == [True] and calls == [True]


def test_it_comes_after_the_counts():
    assert ClassCountsHook.priority == 'VERY_HIGH' and DRWHook.priority == 'HIGH'


def test_errors():
    with pytest.raises(ValueError, match=r'`start` of DRWHook in \[0, 1\), but got 160'):
        DRWHook(160)
    with pytest.raises(ValueError, match="no module with `set_reweighting` in Linear.*type='ReweightedLoss'"):
        DRWHook().before_train(SimpleNamespace(model=nn.Linear(1, 1)))


def test_epoch_start():
    switch = Switch()
    EpochStartHook().before_train_epoch(SimpleNamespace(model=nn.Sequential(nn.Identity(), switch)))
    assert switch.calls == ['epoch']
