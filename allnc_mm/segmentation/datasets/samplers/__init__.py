from .rare_class_sampler import RareClassSampler

__all__ = ['RareClassSampler']
