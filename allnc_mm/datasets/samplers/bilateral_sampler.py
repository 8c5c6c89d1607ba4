from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from ...class_counts import read_labels
from ...functional.longtail import sampling_distribution
from ...registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class BilateralSampler(Sampler):
    """Batches whose first half is sampled uniformly and whose second half is re-balanced.

    The batch sampler of two-branch training (BBN, `Zhou et al. 2020 <https://arxiv.org/abs/1912.02413>`_). Each batch
    is ``[B uniform | B re-balanced]`` dataset indices. The uniform half comes from the wrapped sampler. For the
    re-balanced half a class is drawn with probability

    .. math::
        \\pi_k = n_k^q / \\sum_j n_j^q

    and an image of it without replacement until the class is exhausted, then from a new shuffle. All ranks draw from
    one stream and take every world_size-th of it, so no draw is used twice and the batches of all ranks together are
    those of one process with a larger batch.

    The stream restarts at every pass over the data from (seed, epoch, pass), so a resumed run sees the batches of the
    uncut one. With mmengine's ``InfiniteSampler`` it goes on for ever.

    .. code-block:: python

        train_dataloader = dict(
            batch_size=128,  # 128 + 128 images
            sampler=dict(type='DefaultSampler', shuffle=True),
            batch_sampler=dict(type='BilateralSampler', q=0.0))

    Args:
        sampler (Sampler): The uniform sampler, split over the ranks already; mmengine passes it. Its ``dataset`` gives
            the labels by ``get_gt_labels()`` (mmpretrain), or else by ``get_data_info(i)['gt_label']`` of every sample.
        batch_size (int): B, the size of each half; mmengine passes it.
        q (float): Exponent: 1 natural, 0.5 square root, 0 class-balanced, -1 reversed. Defaults to 0.0.
        progressive (bool): Move the exponent from 1 to q as eta goes from 1 to 0, epoch by epoch: it is
            q + (1 - q) eta. ``GBBNHook`` sets eta. Defaults to False: q throughout.
        seed (int, optional): Seed of the stream, the same on all ranks. Defaults to None: that of the wrapped sampler,
            or a common random one where it has none.
        drop_last (bool): Whether to drop a last, smaller batch. Otherwise its re-balanced half is as small as its
            uniform half. Defaults to False.

    Attributes:
        num_per_class (np.ndarray): (K,) class counts of the labels.
        prior (np.ndarray): (K,) float64, the class distribution of the re-balanced half (of this epoch).

    Raises:
        ValueError: if q is not finite, batch_size is below 1 or, with ``drop_last``, above the number of images, a
            class has no images and q <= 0, a label is out of range, or the ranks would get unequal numbers of images.
        TypeError: if the data set gives no labels.
    """

    def __init__(self,
                 sampler,
                 batch_size: int,
                 q: float = 0.0,
                 progressive: bool = False,
                 seed: int | None = None,
                 drop_last: bool = False) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f'Expected `batch_size` to be a positive integer, but got {batch_size!r}.')
        self.sampler = sampler
        self.batch_size = batch_size
        self.q = q
        self.progressive = progressive
        self.drop_last = drop_last
        if seed is None:
            seed = getattr(sampler, 'seed', None)
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.world_size = get_dist_info()
        if self.world_size > 1 and not getattr(sampler, 'round_up', True):
            raise ValueError('BilateralSampler needs as many images on each rank, but its sampler has round_up=False; '
                             'set train_dataloader.sampler.round_up=True.')
        if drop_last and len(sampler) < batch_size:
            raise ValueError(f'drop_last=True leaves no batch: there are {len(sampler)} images a rank and batch_size '
                             f'is {batch_size}; set a smaller batch_size, or drop_last=False.')

        labels, num_classes = self._read_labels(sampler.dataset)
        self.num_per_class = np.bincount(labels, minlength=num_classes)
        sampling_distribution(self.num_per_class, q)  # refuses a q that does not fit the data, before training
        self.set_eta(1.0)
        self._members = np.argsort(labels, kind='stable')  # positions in the data set, class by class
        self._first = np.cumsum(self.num_per_class) - self.num_per_class  # where each class starts in them

    def set_eta(self, eta: float) -> None:
        """Set the state of the progressive exponent for the epochs to come; without effect otherwise."""
        exponent = self.q + (1 - self.q) * eta if self.progressive else self.q
        self.prior = sampling_distribution(self.num_per_class, exponent)

    @staticmethod
    def _read_labels(dataset) -> tuple[np.ndarray, int]:
        labels = read_labels(dataset, 'BilateralSampler')
        metainfo = getattr(dataset, 'metainfo', {})
        num_classes = len(metainfo.get('num_per_class') or metainfo.get('classes') or range(labels.max() + 1))
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(f'The labels of {type(dataset).__name__} run from {labels.min()} to {labels.max()}, but '
                             f'its metainfo names {num_classes} classes; make them agree.')
        return labels, num_classes

    def _draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Draw ``size`` dataset indices: classes by the prior, images without replacement inside a class."""
        classes = rng.choice(len(self.prior), size=size, p=self.prior)
        drawn = np.bincount(classes, minlength=len(self.prior))
        order = np.argsort(classes, kind='stable')
        nth = np.empty(size, dtype=np.int64)  # how often its class was drawn before
        nth[order] = np.arange(size) - np.repeat(np.cumsum(drawn) - drawn, drawn)

        # all shuffles of all classes at once: round r of class k is a group of n_k entries, sorted by random keys
        rounds = -(-drawn // np.maximum(self.num_per_class, 1))
        length = np.repeat(self.num_per_class, rounds)
        start = np.cumsum(length) - length
        shuffled = np.repeat(np.repeat(self._first, rounds) - start, length) + np.arange(length.sum())
        shuffled = shuffled[np.lexsort((rng.random(len(shuffled)), np.repeat(np.arange(len(length)), length)))]
        # the rounds of a class follow each other, so the n-th draw of a class is the n-th entry from its first round
        start_of_class = np.cumsum(rounds * self.num_per_class) - rounds * self.num_per_class
        return self._members[shuffled[start_of_class[classes] + nth]]

    def _partners(self) -> Iterator[np.ndarray]:
        """Re-balanced draws of this rank, one array for each pass over the data."""
        epoch = getattr(self.sampler, 'epoch', 0)
        size = len(self._members)
        for number in itertools.count():
            rng = np.random.default_rng([self.seed, epoch, number])
            # the passes are one stream: where the ranks do not divide a pass, the next goes on with another rank
            yield self._draw(rng, size)[(self.rank - number * size) % self.world_size::self.world_size]

    def __iter__(self) -> Iterator[list[int]]:
        uniform = iter(self.sampler)
        passes = self._partners()
        partners = np.empty(0, dtype=np.int64)
        while batch := list(itertools.islice(uniform, self.batch_size)):
            if self.drop_last and len(batch) < self.batch_size:
                return
            while len(partners) < len(batch):
                partners = np.concatenate([partners, next(passes)])
            yield batch + partners[:len(batch)].tolist()
            partners = partners[len(batch):]

    def __len__(self) -> int:
        """Number of batches of this rank."""
        return len(self.sampler) // self.batch_size if self.drop_last else -(-len(self.sampler) // self.batch_size)
