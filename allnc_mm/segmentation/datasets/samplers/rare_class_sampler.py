from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmseg.datasets.transforms import RandomCrop

from ....datasets.samplers import BilateralSampler
from ....functional.longtail import sampling_distribution
from ....registry import DATA_SAMPLERS
from ..pixel_counts import pixel_counts
from ..transforms import RareClassCrop


class RareIndex(int):
    """Index of an image that was drawn for one of its classes; mmengine hands it on as ``results['sample_idx']``."""

    rare_class: int

    def __new__(cls, index: int, rare_class: int):
        self = super().__new__(cls, index)
        self.rare_class = rare_class
        return self

    def __reduce__(self):
        return RareIndex, (int(self), self.rare_class)


@DATA_SAMPLERS.register_module()
class RareClassSampler(BilateralSampler):
    """Batches of [B natural | B rare-class] images for segmentation, the second half for :class:`RareClassCrop`.

    The batch sampler of GBBN with pixels as samples. For the second half a class is drawn with probability

    .. math::
        \\pi_k = n_k^q / \\sum_j n_j^q

    over the pixel counts n_k, then an image that contains it, without replacement until they are exhausted; the crop is
    taken around one of its pixels. Ranks, resuming and ``InfiniteSampler`` are as in :class:`BilateralSampler`.

    .. code-block:: python

        model = dict(type='AllNCSegmentor', bilateral=True, loss_rebalanced=dict(type='LogitAdjustedSegLoss'))
        train_dataloader = dict(
            batch_size=4,  # 4 + 4 crops
            sampler=dict(type='InfiniteSampler', shuffle=True),
            batch_sampler=dict(type='RareClassSampler', q=0.0))
        default_hooks = dict(pixel_counts=dict(type='PixelCountsHook'), gbbn=dict(type='GBBNHook'))

    Args:
        sampler (Sampler): The uniform sampler; mmengine passes it. Its ``dataset`` is a segmentation data set whose
            pixels are counted once (:func:`pixel_counts`), which also finds missing label maps and wrong labels.
        batch_size (int): B, the size of each half; mmengine passes it.
        q (float): Exponent: 1 natural, 0.5 square root, 0 class-balanced. Defaults to 0.0.
        min_pixels (int): Pixels of a class that an image must have to be drawn for it; an image with fewer serves only
            where no image has as many. Defaults to 1.
        prior_crops (int): How many crops of each class are taken before training to measure ``prior``. Defaults to 24.
        **kwargs: ``progressive``, ``seed`` and ``drop_last`` of :class:`BilateralSampler`.

    Attributes:
        num_per_class (np.ndarray): (K,) pixel counts.
        class_prior (np.ndarray): (K,) with which classes are drawn.
        prior (np.ndarray): (K,) expected share of each class in the labelled pixels of the second half, measured with
            the augmentation and the windows of the pipeline. The loss of the second branch reads it.

    Raises:
        ValueError: if q is not finite, batch_size, min_pixels or prior_crops is below 1, a class has no pixels and
            q <= 0, the pipeline has a crop that would lose the class, or as :func:`pixel_counts` has.
        TypeError: for a data set (wrapper) that does not hand the index on.
    """

    def __init__(self, sampler, batch_size: int, q: float = 0.0, min_pixels: int = 1, prior_crops: int = 24,
                 progressive: bool = False, seed: int | None = None, drop_last: bool = False) -> None:
        for name, value in (('batch_size', batch_size), ('min_pixels', min_pixels), ('prior_crops', prior_crops)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'Expected `{name}` to be a positive integer, but got {value!r}.')
        self.sampler, self.batch_size, self.q, self.progressive = sampler, batch_size, q, progressive
        self.drop_last = drop_last
        if seed is None:
            seed = getattr(sampler, 'seed', None)
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.world_size = get_dist_info()

        counts = pixel_counts(sampler.dataset)
        self.num_per_class = counts.sum(0)
        sampling_distribution(self.num_per_class, q)  # refuses a q that does not fit the data, before training
        self._check_dataset(sampler.dataset)
        self._members = np.arange(len(counts))
        enough = counts >= min_pixels
        self._images = [np.flatnonzero(some if some.any() else column > 0) for some, column in zip(enough.T, counts.T)]
        self._pixels = self._expected_pixels(counts, prior_crops)
        self.set_eta(1.0)

    @staticmethod
    def _check_dataset(dataset) -> None:
        if getattr(dataset.get_data_info(RareIndex(0, 0)).get('sample_idx'), 'rare_class', None) is None:
            raise TypeError(f'{type(dataset).__name__} does not hand on for which class an image was drawn; use '
                            'RareClassSampler with the data set itself instead of a wrapper around it.')
        crops = [t for t in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()) if isinstance(t, RandomCrop)]
        if any(not isinstance(t, RareClassCrop) for t in crops):
            raise ValueError('RandomCrop in the training pipeline would crop away the class that RareClassSampler drew '
                             "the image for; replace it by dict(type='RareClassCrop', crop_size=...).")

    def _expected_pixels(self, counts: np.ndarray, prior_crops: int) -> np.ndarray:
        """(K, K), row k: mean pixels of each class in what the pipeline makes of an image drawn for class k.

        Without a crop in the pipeline they follow from the counts. The generators are put back as they were.
        """
        num_classes = counts.shape[1]
        dataset = self.sampler.dataset
        transforms = list(getattr(getattr(dataset, 'pipeline', None), 'transforms', ()))
        last = next((i for i, t in enumerate(transforms) if isinstance(t, RareClassCrop)), None)
        rows = np.zeros((num_classes, num_classes))
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        random.seed(0), np.random.seed(0), torch.default_generator.manual_seed(0)  # the same on all ranks
        try:
            for k, images in enumerate(self._images):
                if last is None:
                    rows[k] = counts[images].mean(0) if len(images) else 0
                    continue
                for image in np.random.choice(images, prior_crops) if len(images) else ():
                    results = dataset.get_data_info(RareIndex(int(image), k))
                    for transform in transforms[:last + 1]:
                        results = transform(results)
                    found = np.bincount(results['gt_seg_map'].ravel(), minlength=num_classes)[:num_classes]
                    rows[k] += found / prior_crops
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
        return rows

    def set_eta(self, eta: float) -> None:
        """Set the state of the progressive exponent for the epochs to come; without effect otherwise."""
        exponent = self.q + (1 - self.q) * eta if self.progressive else self.q
        self.class_prior = sampling_distribution(self.num_per_class, exponent)
        self.prior = self.class_prior @ self._pixels
        self.prior /= self.prior.sum()

    def _draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Draw (image, class) pairs, coded as image + number of images * class."""
        classes = rng.choice(len(self.class_prior), size=size, p=self.class_prior)
        images = np.empty(size, dtype=np.int64)
        for k in np.unique(classes):
            places, pool = np.flatnonzero(classes == k), self._images[k]
            rounds = -(-len(places) // len(pool))
            images[places] = np.concatenate([rng.permutation(pool) for _ in range(rounds)])[:len(places)]
        return images + len(self._members) * classes

    def __iter__(self) -> Iterator[list[int]]:
        total = len(self._members)
        for batch in super().__iter__():
            half = len(batch) // 2
            yield batch[:half] + [RareIndex(code % total, code // total) for code in batch[half:]]
