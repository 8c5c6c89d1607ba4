from .dr_loss import DRLoss
from .hycon_loss import HyConLoss
from .ldam_loss import LDAMLoss
from .logit_adjusted_loss import LogitAdjustedLoss
from .p2p_loss import P2PLoss
from .proco_loss import ProCoLoss
from .reweighted_loss import ReweightedLoss
from .supcon_loss import SupConLoss

__all__ = [
    'DRLoss', 'HyConLoss', 'LDAMLoss', 'LogitAdjustedLoss', 'P2PLoss', 'ProCoLoss', 'ReweightedLoss', 'SupConLoss'
]
