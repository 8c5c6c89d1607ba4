from .bilateral_sampler import BilateralSampler
from .class_balanced_sampler import ClassBalancedSampler

__all__ = ['BilateralSampler', 'ClassBalancedSampler']
