from .dr_loss import DRLoss
from .hycon_loss import HyConLoss
from .logit_adjusted_loss import LogitAdjustedLoss
from .p2p_loss import P2PLoss

__all__ = ['DRLoss', 'HyConLoss', 'LogitAdjustedLoss', 'P2PLoss']
