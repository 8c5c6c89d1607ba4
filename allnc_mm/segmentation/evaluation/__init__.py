from .long_tail_iou_metric import LongTailIoUMetric
from .pixel_collapse_metric import PixelCollapseMetric

__all__ = ['LongTailIoUMetric', 'PixelCollapseMetric']
