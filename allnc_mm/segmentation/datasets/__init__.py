from .camvid import CamVid
from .pixel_counts import pixel_counts, set_num_per_class
from .samplers import RareClassSampler
from .transforms import RareClassCrop

__all__ = ['CamVid', 'RareClassCrop', 'RareClassSampler', 'pixel_counts', 'set_num_per_class']
