from .allnc import AllNC
from .bbn import BBN

__all__ = ['AllNC', 'BBN']
