from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate

from ..functional.longtail import long_tail_indices
from ..registry import DATASETS
from .cifar_lt import InMemoryLongTail


@DATASETS.register_module()
class DigitsLT(InMemoryLongTail):
    """Long-tailed handwritten digits of scikit-learn: 1797 real 8 x 8 images that come with its wheel.

    50 images of each class, the same for every setting, are the test set; 124 or more a class remain to train and
    validate. The grey images are scaled up bilinearly and repeated over three channels.

    Args:
        split (str): 'train', 'val' or 'test'. Defaults to 'train'.
        imb_factor (float): n_max / n_min; 1 is balanced. Defaults to 50.
        n_max (int, optional): Training images of the largest class. Defaults to 100.
        size (int): Height and width of the images. Defaults to 16.
        **kwargs: The others are those of :class:`InMemoryLongTail`; ``data_root`` is not used.

    Raises:
        ImportError: without scikit-learn.

    Example:
        >>> DigitsLT().metainfo['num_per_class']
        [100, 64, 41, 27, 17, 11, 7, 4, 3, 2]
    """

    METAINFO = dict(classes=tuple('0123456789'))
    default_n_max = 100
    test_per_class = 50

    def __init__(self, split: str = 'train', imb_factor: float = 50, size: int = 16, **kwargs) -> None:
        if size < 8:
            raise ValueError(f'Expected `size` to be at least 8, the size of the digits, but got {size}.')
        self.size = size
        super().__init__(split=split, imb_factor=imb_factor, **kwargs)

    def _read(self, train):
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError('DigitsLT needs scikit-learn, which has the images: pip install scikit-learn') from error
        digits = load_digits()
        labels = digits.target.astype(np.int64)
        held_out = np.sort(long_tail_indices(labels, [self.test_per_class] * 10))
        part = np.setdiff1d(np.arange(len(labels)), held_out) if train else held_out
        grey = torch.from_numpy(digits.images[part])[:, None] * (255 / 16)  # the pixels are 0..16
        grey = interpolate(grey, size=(self.size, self.size), mode='bilinear', align_corners=False)
        images = grey.round().to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        return images, np.arange(len(part)), labels[part]
