from .allnc_head import AllNCHead
from .bbn_head import BBNHead
from .cmf_head import CMFHead
from .contrastive_cls_head import ContrastiveClsHead
from .etf_head import ETFHead
from .lws_head import LWSHead
from .softmax_code_head import SoftmaxCodeHead
from .spherical_head import SphericalHead

__all__ = [
    'AllNCHead', 'BBNHead', 'CMFHead', 'ContrastiveClsHead', 'ETFHead', 'LWSHead', 'SoftmaxCodeHead', 'SphericalHead'
]
