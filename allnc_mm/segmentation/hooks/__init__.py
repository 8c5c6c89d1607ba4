from .attach_metrics_hook import AttachMetricsHook
from .pixel_counts_hook import PixelCountsHook
from .seg_class_weights_hook import SegClassWeightsHook

__all__ = ['AttachMetricsHook', 'PixelCountsHook', 'SegClassWeightsHook']
