from .class_means import ClassMeans
from .mixture_views import MixtureViews
from .multi_view_data_preprocessor import MultiViewDataPreprocessor

__all__ = ['ClassMeans', 'MixtureViews', 'MultiViewDataPreprocessor']
