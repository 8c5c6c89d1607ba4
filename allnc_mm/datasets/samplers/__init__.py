from .bilateral_sampler import BilateralSampler

__all__ = ['BilateralSampler']
