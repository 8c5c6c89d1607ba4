from .branch_loss import BranchLoss
from .dot_regression_seg_loss import DotRegressionSegLoss
from .logit_adjusted_seg_loss import LogitAdjustedSegLoss

__all__ = ['BranchLoss', 'DotRegressionSegLoss', 'LogitAdjustedSegLoss']
