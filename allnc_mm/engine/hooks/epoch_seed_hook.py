import logging
import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop

from ...registry import HOOKS


def _set_epoch(dataset, epoch: int, seed: int) -> bool:
    """Call ``set_epoch`` of every data set below mmengine's wrappers that has one; whether all have."""
    if hasattr(dataset, 'set_epoch'):
        dataset.set_epoch(epoch, seed)
        return True
    if hasattr(dataset, 'datasets'):  # ConcatDataset
        return all([_set_epoch(part, epoch, seed) for part in dataset.datasets])
    # RepeatDataset, ClassBalancedDataset, torch's Subset
    return hasattr(dataset, 'dataset') and _set_epoch(dataset.dataset, epoch, seed)


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Make what an epoch draws at random depend on the epoch, not on what ran before it.

    Then a run that was cut and resumed equals the uncut one. Two things are set:

    - the generators of random, numpy and torch (GPU included), from (``runner.seed``, epoch, rank), before every epoch;
      in an iteration-based loop before every iteration, because such a run is cut between any two;
    - the epoch of the training data set (:class:`allnc_mm.datasets.ReproducibleAugmentation`), below mmengine's
      wrappers too. An iteration-based loop is one epoch, number 0. A data set without it is augmented in the state its
      workers happen to have: then a resumed run is another one, and the hook says so in the log.

    It takes effect after all other hooks (priority VERY_LOW), so what those draw does not matter. Set
    ``randomness=dict(seed=...)``: without it mmengine builds the samplers of a resumed run with another seed.

    In mmengine 0.10.7 an ``IterBasedTrainLoop`` starts its workers before any hook runs. The batches that they have
    prefetched by then, at the start of a run, are not augmented reproducibly; the hook says so in the log.
    """

    priority = 'VERY_LOW'

    def before_train(self, runner) -> None:
        """Set the epoch of the data set for the whole iteration-based run.

        Args:
            runner (Runner): The runner of the training process.
        """
        self.by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        known = _set_epoch(runner.train_dataloader.dataset, runner.epoch if self.by_epoch else 0, runner.seed)
        if not known and runner.train_dataloader.num_workers:
            print_log(f'{type(runner.train_dataloader.dataset).__name__} does not know the epoch: with workers, a run '
                      'that was resumed is augmented in another way than an uncut one. Derive it from '
                      'ReproducibleAugmentation, or set train_dataloader.num_workers=0, if that matters.',
                      logger='current', level=logging.WARNING)
        if self.by_epoch:
            return
        self._seed(runner, runner.iter)
        batches = getattr(runner.train_loop, 'dataloader_iterator', None)
        if runner.train_dataloader.num_workers and getattr(batches, '_iterator', None) is not None:
            print_log('The workers of this iteration-based loop were started before the first hook: the augmentation '
                      'of the batches prefetched by now may differ from run to run. num_workers=0, an '
                      'EpochBasedTrainLoop or a later mmengine avoid it.', logger='current', level=logging.WARNING)

    def before_train_epoch(self, runner) -> None:
        """Seed the epoch.

        Args:
            runner (Runner): The runner of the training process.
        """
        if self.by_epoch:
            _set_epoch(runner.train_dataloader.dataset, runner.epoch, runner.seed)
            self._seed(runner, runner.epoch)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Seed the iteration of an iteration-based loop.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): Index of the batch in the loop.
            data_batch (dict, optional): Data of the batch. Defaults to None.
        """
        if not self.by_epoch:
            self._seed(runner, runner.iter)

    @staticmethod
    def _seed(runner, counter: int) -> None:
        words = np.random.SeedSequence([runner.seed, counter, get_rank()]).generate_state(4)
        random.seed(words.tobytes())
        np.random.seed(words)
        torch.manual_seed(int(words[0]))  # all GPUs included
