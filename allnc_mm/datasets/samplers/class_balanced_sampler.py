from __future__ import annotations

from collections.abc import Iterator

from mmengine.dataset import DefaultSampler
from torch.utils.data import Sampler

from ...registry import DATA_SAMPLERS
from .bilateral_sampler import BilateralSampler


@DATA_SAMPLERS.register_module()
class ClassBalancedSampler(Sampler):
    """Draw a class in proportion to n_k^q, then an image of it: the re-balanced half of :class:`BilateralSampler`.

    The class-aware sampler of the second stage of decoupled training (`Kang et al., ICLR 2020
    <https://arxiv.org/abs/1910.09217>`_): q = 0 is class-balanced, 0.5 the square root, 1 instance-balanced. Images of
    a class come without replacement until it is exhausted. An epoch is as long as the data set and follows from (seed,
    epoch), so a resumed run sees that of the uncut one; all ranks share one stream.

    Args:
        dataset (Dataset): mmengine passes it.
        q (float): Exponent. Defaults to 0.
        seed (int, optional): The same on all ranks; mmengine passes that of the run. Defaults to None, a random one.

    Attributes:
        prior (np.ndarray): (K,) float64, the class distribution of the draws; ``ClassCountsHook`` tells the losses.

    Raises:
        ValueError, TypeError: as :class:`BilateralSampler`.
    """

    def __init__(self, dataset, q: float = 0.0, seed: int | None = None) -> None:
        self.sampler = BilateralSampler(DefaultSampler(dataset, shuffle=False, seed=seed), batch_size=1024, q=q)
        self.prior = self.sampler.prior

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; called by ``DistSamplerSeedHook``."""
        self.sampler.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        for batch in self.sampler:
            yield from batch[len(batch) // 2:]

    def __len__(self) -> int:
        """Number of images of this rank."""
        return len(self.sampler.sampler)
