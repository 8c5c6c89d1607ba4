from .allnc_head import AllNCHead
from .bbn_head import BBNHead
from .etf_head import ETFHead

__all__ = ['AllNCHead', 'BBNHead', 'ETFHead']
