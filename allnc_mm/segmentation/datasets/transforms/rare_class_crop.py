import numpy as np
from mmseg.datasets.transforms import RandomCrop

from ....registry import TRANSFORMS


@TRANSFORMS.register_module()
class RareClassCrop(RandomCrop):
    """mmseg's ``RandomCrop`` that keeps the class for which :class:`RareClassSampler` drew the image.

    For such a sample a pixel of the class is drawn, and the window among those inside the image that contain it. All
    other samples, and those whose class an earlier transform has removed, are cropped as ``RandomCrop`` does.

    Args:
        crop_size (int | tuple[int, int]): Height and width.
        cat_max_ratio (float): Largest share of one class, for natural samples. Defaults to 1.0.
        ignore_index (int): Defaults to 255.
    """

    def crop_bbox(self, results: dict) -> tuple[int, int, int, int]:
        """Top, bottom, left and right of the window."""
        rare_class = getattr(results.get('sample_idx'), 'rare_class', None)
        pixels = () if rare_class is None else np.flatnonzero(results['gt_seg_map'] == rare_class)
        if not len(pixels):
            return super().crop_bbox(results)
        shape = results['gt_seg_map'].shape
        pixel = np.unravel_index(pixels[np.random.randint(len(pixels))], shape)
        box = []
        for place, size, crop in zip(pixel, shape, self.crop_size):
            first, last = max(place - crop + 1, 0), min(place, max(size - crop, 0))
            start = np.random.randint(first, last + 1)
            box += [start, start + crop]
        return tuple(box)
