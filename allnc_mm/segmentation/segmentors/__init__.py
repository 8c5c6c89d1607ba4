from .allnc_segmentor import AllNCCascadeSegmentor, AllNCSegmentor

__all__ = ['AllNCCascadeSegmentor', 'AllNCSegmentor']
