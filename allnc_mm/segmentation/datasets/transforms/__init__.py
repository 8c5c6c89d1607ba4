from .rare_class_crop import RareClassCrop

__all__ = ['RareClassCrop']
