import copy
import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader

from allnc_mm.datasets import DigitsLT
from allnc_mm.engine.hooks import EpochSeedHook
from allnc_mm.registry import HOOKS


class Draw(BaseTransform):
    """Draws once from each generator that augmentations use."""

    def transform(self, results):
        return [results['sample_idx'], random.random(), np.random.rand(), torch.rand(()).item()]


def digits(**kwargs):
    return DigitsLT(imb_factor=10, n_max=20, pipeline=[Draw()], **kwargs)  # 78 images


def loader(dataset, workers, persistent=False, context=None, batches=None):
    if batches is None:
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(5)).tolist()
        batches = [order[i:i + 16] for i in range(0, len(order), 16)]
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, persistent_workers=persistent,
                      collate_fn=list, multiprocessing_context=context)


def epochs(workers, numbers=(0, 1, 2), persistent=False, context=None):
    dataset = digits()
    load = loader(dataset, workers, persistent, context)
    seen = []
    for epoch in numbers:
        dataset.set_epoch(epoch, seed=9)
        torch.manual_seed(workers + epoch)  # must not matter
        seen.append(list(load))
    return seen


def test_same_with_any_workers():
    expected = epochs(0)
    assert len(expected[0]) == 5
    assert epochs(2) == expected
    assert epochs(2, persistent=True) == expected
    assert epochs(2, numbers=(1, 2), persistent=True) == expected[1:]  # resumed


@pytest.mark.slow
def test_spawned_workers():
    assert epochs(1, persistent=True, context='spawn') == epochs(0)


def test_no_epoch_and_no_seed_repeats():
    values = [item[1:] for epoch in epochs(0) for batch in epoch for item in batch]
    assert len({tuple(v) for v in values}) == len(values) == 3 * 78
    assert len({v[0] for v in values}) == len({v[1] for v in values}) == len(values)
    dataset = digits()
    draws = set()
    for seed in range(3):
        dataset.set_epoch(0, seed)
        draws.add(dataset.__getitems__([1])[0][1])
    assert len(draws) == 3


def test_two_draws_of_one_image_differ():
    dataset = digits()
    dataset.set_epoch(0, 0)
    first, second = dataset.__getitems__([4, 4])
    assert first[0] == second[0] == 4 and all(a != b for a, b in zip(first[1:], second[1:]))


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_states_are_put_back():
    dataset = digits()
    dataset.set_epoch(3, 1)
    before = states()
    dataset.__getitems__([0, 1])
    assert states() == before
    dataset.pipeline.transforms.append(lambda item: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dataset.__getitems__([0, 1])
    assert states() == before


def test_left_alone_before_set_epoch_and_in_test_mode():
    for dataset in (digits(), digits(test_mode=True)):
        if dataset.test_mode:
            dataset.set_epoch(0, 0)
        random.seed(1)
        first = dataset.__getitems__([2])[0][1]
        assert first == random.Random(1).random()
        assert dataset.__getitems__([2])[0][1] != first


def test_copies_own_their_epoch():
    dataset = digits()
    dataset.set_epoch(1, 7)
    expected = dataset.__getitems__([5, 6])
    for other in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset)), dataset.get_subset(list(range(30)))):
        assert other.__getitems__([5, 6]) == expected
        assert other._epoch_state.values.is_shared()
        other.set_epoch(2, 7)
        assert other.__getitems__([5, 6]) != expected
        assert dataset.__getitems__([5, 6]) == expected


def test_negative_epoch():
    with pytest.raises(ValueError, match='`epoch` to be 0 or more, but got -1'):
        digits().set_epoch(-1)


def test_wrapped_in_workers():
    """A wrapper asks for single samples: workers are seeded once an epoch."""

    def run(numbers, persistent):
        dataset = RepeatDataset(digits(), times=2)
        load = loader(dataset, 2, persistent)
        seen = []
        for epoch in numbers:
            dataset.dataset.set_epoch(epoch, 9)
            seen.append(list(load))
        return seen

    expected = run((0, 1, 2), True)
    assert run((1, 2), True) == expected[1:] and run((1, 2), False) == expected[1:]
    values = [item[1] for epoch in expected for batch in epoch for item in batch]
    assert len(set(values)) == len(values)


def as_dict(items):
    return dict(items=items)


class Toy(BaseModel):
    """Its loss uses every generator; it remembers what it was given and drew."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.log = []

    def forward(self, items, mode='loss'):
        self.log.append([items, torch.rand(()).item(), np.random.rand(), random.random()])
        return dict(loss=self.weight * sum(item[1] for item in items))


class Noise(Hook):
    """What a hook or a validation draws must not matter."""
    priority = 'NORMAL'

    def before_train_epoch(self, runner):
        torch.rand(runner.resumed_from + 1)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):  # inside an epoch every draw counts
            torch.rand(runner.resumed_from + 1)


def train(tmp_path, name, loop, resume_at=0, workers=0, wrap=None):
    dataset = digits()
    if wrap is not None:
        dataset = wrap(dataset)
    sampler = dict(type='DefaultSampler' if loop['by_epoch'] else 'InfiniteSampler', shuffle=True)
    runner = Runner(
        Toy(),
        work_dir=str(tmp_path),
        experiment_name=f'{tmp_path.name}-{name}',
        train_dataloader=dict(dataset=dataset, batch_size=16, num_workers=workers, sampler=sampler,
                              collate_fn=as_dict),
        train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        randomness=dict(seed=21),
        default_hooks=dict(logger=None, timer=None, checkpoint=None, param_scheduler=None),
        custom_hooks=[dict(type=Noise), dict(type='EpochSeedHook')],
        log_level='ERROR')
    runner.resumed_from = resume_at
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    if loop['by_epoch']:
        runner._train_loop._epoch, runner._train_loop._iter = resume_at, resume_at * 5
    else:
        runner._train_loop._iter = resume_at
    runner.train()
    return runner


@pytest.mark.parametrize('loop', [dict(by_epoch=True, max_epochs=3), dict(by_epoch=False, max_iters=12)])
@pytest.mark.parametrize('workers', [0, 2])
def test_resumed_run_equals_the_uncut_one(tmp_path, loop, workers):
    if not loop['by_epoch'] and workers and not hasattr(_InfiniteDataloaderIterator, 'skip_iter'):
        pytest.skip('mmengine 0.10.7 starts the workers of an iteration-based loop before the first hook')
    uncut = train(tmp_path, 'uncut', loop, workers=workers).model.log
    cut_at = 2 if loop['by_epoch'] else 5
    resumed = train(tmp_path, 'resumed', loop, cut_at, workers).model.log
    assert len(uncut) == (15 if loop['by_epoch'] else 12)
    assert resumed == uncut[10 if loop['by_epoch'] else 5:]
    draws = [entry[1] for entry in uncut]
    assert len(set(draws)) == len(draws)


def test_wrappers_are_unwrapped(tmp_path):
    assert HOOKS.get('EpochSeedHook') is EpochSeedHook
    loop = dict(by_epoch=True, max_epochs=2)
    for i, wrap in enumerate([lambda d: ConcatDataset([d, digits()]), lambda d: RepeatDataset(d, 2),
                              lambda d: ClassBalancedDataset(d, 1e-3)]):
        wrapped = train(tmp_path, i, loop, wrap=wrap).train_dataloader.dataset
        parts = wrapped.datasets if i == 0 else [wrapped.dataset]
        assert [part._epoch_state.values.tolist() for part in parts] == [[21, 1]] * len(parts)


def test_workers_that_started_too_early_are_told(monkeypatch):
    said = []
    monkeypatch.setattr('allnc_mm.engine.hooks.epoch_seed_hook.print_log', lambda text, **kwargs: said.append(text))
    for workers, started, expected in [(2, None, 0), (0, object(), 0), (2, object(), 1)]:
        batches = SimpleNamespace(_iterator=started)
        runner = SimpleNamespace(seed=1, iter=0, train_loop=SimpleNamespace(dataloader_iterator=batches),
                                 train_dataloader=SimpleNamespace(dataset=digits(), num_workers=workers))
        EpochSeedHook().before_train(runner)
        assert len(said) == expected
        assert runner.train_dataloader.dataset._epoch_state.values.tolist() == [1, 0]
    assert 'augmentation of the batches prefetched' in said[0]


def test_ranks_draw_differently(monkeypatch):

    class Fake:
        seed = 4

    draws = []
    for rank in (0, 1):
        monkeypatch.setattr('allnc_mm.engine.hooks.epoch_seed_hook.get_rank', lambda rank=rank: rank)
        EpochSeedHook._seed(Fake, 0)
        draws.append([random.random(), np.random.rand(), torch.rand(()).item()])
    assert all(a != b for a, b in zip(*draws))
