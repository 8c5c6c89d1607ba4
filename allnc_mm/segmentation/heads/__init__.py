from .center_collapse_head import CenterCollapseHead
from .fixed_classifier import FixedClassifier
from .pixel_geometry import PixelGeometry

__all__ = ['CenterCollapseHead', 'FixedClassifier', 'PixelGeometry']
