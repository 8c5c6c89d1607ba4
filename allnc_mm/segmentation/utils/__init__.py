from .features import capture_features, classifier_weight, last_head
from .photometric_view import PhotometricView

__all__ = ['PhotometricView', 'capture_features', 'classifier_weight', 'last_head']
