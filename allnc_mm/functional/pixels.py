"""Pixels as samples: class-balanced sampling of a label map and the features at the sampled places."""
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ['PixelSample', 'sample_pixels', 'gather_pixels']


class PixelSample(NamedTuple):
    """K*M pixels drawn by :func:`sample_pixels`, M of each class, class by class."""

    position: Tensor
    """int64 (K*M,), position in the flattened (N, H, W) label maps; any position for a padding row."""
    labels: Tensor
    """float32 (K*M, K), one-hot; a row of zeros is padding, of a class with fewer than M pixels."""
    share: Tensor
    """float32 (K*M,), how many pixels of its class a row stands for; 0 for padding."""


def sample_pixels(labels: Tensor, num_classes: int, max_pixels: int, ignore_index: int = 255) -> PixelSample:
    """Draw up to ``max_pixels`` pixels of each class, without replacement and uniformly within the class.

    The shapes of the result depend on ``num_classes`` and ``max_pixels`` alone, so that what is computed from it costs
    the same for images of any size, and nothing waits for the device. A class with fewer pixels is filled up with
    padding rows. One sort of random keys does it.

    Args:
        labels (Tensor): Integers of shape (N, H, W). Values outside 0..K-1 are not drawn.
        num_classes (int): K.
        max_pixels (int): M, the cap for each class.
        ignore_index (int): A label that is not drawn. Defaults to 255.

    Returns:
        PixelSample: position (K*M,), labels (K*M, K) and share (K*M,). The sum of ``share`` over the rows of a class is
        the number of its pixels, so a sum of features weighted by it estimates the sum over all pixels without bias;
        with no more than M pixels of each class it is that sum.

    Raises:
        ValueError: if ``max_pixels`` or ``num_classes`` is below 1.

    Example:
        >>> sample = sample_pixels(torch.tensor([[[0, 2, 2], [2, 255, 0]]]), 3, 2)
        >>> sorted(sample.position[:2].tolist()), sample.labels.sum(0).tolist(), sample.share.tolist()
        ([0, 5], [2.0, 0.0, 2.0], [1.0, 1.0, 0.0, 0.0, 1.5, 1.5])
    """
    if max_pixels < 1 or num_classes < 1:
        raise ValueError(f'Expected `max_pixels` and `num_classes` to be positive, but got {max_pixels} and '
                         f'{num_classes}.')
    labels = labels.flatten()
    drawn = (labels >= 0) & (labels < num_classes) & (labels != ignore_index)
    # label and 32 random bits: sorted, the pixels of a class stand together and in random order; the others come last.
    # Integers, because PyTorch sorts them eight times as fast as floats.
    keys = torch.where(drawn, labels, num_classes).long() << 32
    keys, order = (keys | torch.randint(1 << 32, keys.shape, device=keys.device)).sort()
    borders = torch.searchsorted(keys, torch.arange(num_classes + 1, device=keys.device) << 32)
    count = borders.diff()[:, None]
    nth = torch.arange(max_pixels, device=labels.device)
    valid = nth < count
    position = order[(borders[:-1, None] + nth).clamp_max(len(labels) - 1)]
    share = valid * (count / count.clamp(1, max_pixels)).float()
    rows = torch.eye(num_classes, device=labels.device).repeat_interleave(max_pixels, 0)
    return PixelSample(position.flatten(), rows * valid.reshape(-1, 1), share.flatten())


def gather_pixels(features: Tensor, position: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Features at some pixels of a larger (or equal) image, by bilinear interpolation.

    The rows are those of ``F.interpolate(features, size, mode='bilinear', align_corners=align_corners)``, which is
    what a segmentation loss sees there, without the interpolated map.

    Args:
        features (Tensor): Shape (N, d, h, w).
        position (Tensor): int64 (P,), in the flattened (N, H, W).
        size (tuple[int, int]): (H, W).
        align_corners (bool): As of ``F.interpolate``. Defaults to False.

    Returns:
        Tensor: float32 (P, d), differentiable with respect to the features.

    Example:
        >>> x = torch.tensor([[[[0., 1.]]]])
        >>> gather_pixels(x, torch.arange(4), (1, 4)).flatten().tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    height, width = size
    image = position.div(height * width, rounding_mode='floor')
    low, high, part = [], [], []
    for place, large, small in ((position % (height * width)).div(width, rounding_mode='floor'), height,
                                features.shape[2]), (position % width, width, features.shape[3]):
        if align_corners:
            source = place * ((small - 1) / max(large - 1, 1))
        else:
            source = ((place + 0.5) * (small / large) - 0.5).clamp_min(0)
        floor = source.floor().clamp_max(small - 1)
        low.append(floor.long())
        high.append((floor.long() + 1).clamp_max(small - 1))
        part.append((source - floor)[:, None])
    (top, left), (bottom, right), (down, across) = low, high, part

    def row(y: Tensor, x: Tensor) -> Tensor:
        return features[image, :, y, x].float()

    upper = row(top, left) * (1 - across) + row(top, right) * across
    lower = row(bottom, left) * (1 - across) + row(bottom, right) * across
    return upper * (1 - down) + lower * down
