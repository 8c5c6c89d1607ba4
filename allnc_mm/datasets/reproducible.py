"""Augmentation that depends on (seed, epoch, batch) and on nothing else."""
from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import get_worker_info

__all__ = ['ReproducibleAugmentation']


class _EpochState:
    """``[seed, epoch]`` in shared memory, so that workers that run already see what the main process sets.

    A negative epoch says that nobody has set it. A fork inherits the memory and a spawned worker gets a handle of it,
    but a deep copy or an unpickled file owns a new one.
    """

    def __init__(self, values: torch.Tensor | None = None) -> None:
        self.values = (torch.tensor([0, -1], dtype=torch.int64) if values is None else values).share_memory_()

    def __reduce__(self):
        return _EpochState, (self.values, )


def _digest(*key: int) -> bytes:
    """A hash of some integers that is the same on every machine."""
    return hashlib.blake2b(np.asarray(key, dtype='<i8').tobytes(), digest_size=16).digest()


def _seed_all(*key: int) -> None:
    """Seed the CPU generators of random, numpy and torch.

    ``torch.manual_seed`` would seed the GPU as well: in a loader without workers that belongs to the model.
    """
    digest = _digest(*key)
    random.seed(digest)
    np.random.seed(np.frombuffer(digest, dtype='<u4'))
    torch.default_generator.manual_seed(int.from_bytes(digest[:8], 'little') >> 1)


class ReproducibleAugmentation:
    """Mixin for data sets of mmengine and its toolboxes; it stands first among the bases.

    torch's loader fetches a batch by ``__getitems__``. Here that seeds random, numpy and torch once from (seed, epoch,
    indices of the batch), runs the pipeline on the samples in their order and puts the former states back. So

    - the loader gives the same images with 0 and with n workers, persistent or not;
    - no epoch repeats the augmentation of another one (upstream, workers that are not persistent repeat it always);
    - two draws of one image in a batch differ;
    - a resumed run sees what the uncut run saw.

    It acts from the first :meth:`set_epoch` on, which :class:`allnc_mm.engine.hooks.EpochSeedHook` calls; before, and
    for data sets with ``test_mode=True``, nothing is seeded.

    Inside a wrapper such as ``ClassBalancedDataset``, which asks for single samples, a worker is seeded at its first
    sample of each epoch instead: no epoch repeats another and a resumed run equals the uncut one, for a fixed number
    of workers.
    """

    def __init__(self, *args, **kwargs) -> None:
        self._epoch_state = _EpochState()
        self._worker_epoch = None
        super().__init__(*args, **kwargs)

    def set_epoch(self, epoch: int, seed: int = 0) -> None:
        """Announce the epoch, to this process and to its workers.

        Args:
            epoch (int): Epoch that begins, from 0.
            seed (int): Seed of the run. Defaults to 0.

        Raises:
            ValueError: if epoch is negative.
        """
        if epoch < 0:
            raise ValueError(f'Expected `epoch` to be 0 or more, but got {epoch}.')
        self._epoch_state.values[0], self._epoch_state.values[1] = seed, epoch

    def _key(self):
        seed, epoch = self._epoch_state.values.tolist()
        return None if epoch < 0 or getattr(self, 'test_mode', False) else (seed, epoch)

    def batch_seed(self, indices: Sequence[int]) -> int:
        """Seed of a batch from (seed, epoch, indices); drawn at random before the first :meth:`set_epoch`."""
        key = self._key()
        if key is None:
            return int(torch.randint(2**62, ()))
        return int.from_bytes(_digest(*key, *indices)[:8], 'little') >> 1

    def __getitems__(self, indices: Sequence[int]) -> list:
        key = self._key()
        if key is None:
            return [self[i] for i in indices]
        if get_worker_info() is not None:  # in the main process it would leak into the next fork
            self._worker_epoch = key
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            _seed_all(*key, *indices)
            return [self[i] for i in indices]
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])

    def __getitem__(self, idx: int):
        worker = get_worker_info()
        key = None if worker is None else self._key()
        if key is not None and key != self._worker_epoch:
            self._worker_epoch = key
            _seed_all(*key, worker.id, idx)
        return super().__getitem__(idx)
