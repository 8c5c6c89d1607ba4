import torch
import torch.nn as nn
from mmpretrain.models.losses.utils import weight_reduce_loss

from ...functional.dot_regression import FORMS, REDUCTIONS, dot_regression_loss
from ...registry import MODELS


@MODELS.register_module()
class DRLoss(nn.Module):
    """Dot regression loss on features and a fixed code.

    From `Inducing Neural Collapse in Imbalanced Learning <https://arxiv.org/abs/2203.09081>`_; the formula is that of
    :func:`allnc_mm.functional.dot_regression.dot_regression_loss`. A head hands it features and code vectors instead of
    logits, and knows from ``needs_codes`` that it has to.

    Args:
        form (str): 'paper' (features normalised, :math:`(\\cos - 1)^2 / 2`) or 'released' (the authors' code, lengths
            of raw features as detached constants). Defaults to 'paper'.
        normalize (bool, optional): Whether to normalise features first. Defaults to None: on for 'paper', off for
            'released'. The published recipe normalises in the network, where the two forms agree.
        length (float): Length that features are normalised to. Defaults to 1.0.
        reduction (str): 'none', 'mean' or 'sum'. Defaults to 'mean'.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: for an unknown form or reduction, or a length that is not positive.
    """

    needs_codes = True

    def __init__(self,
                 form: str = 'paper',
                 normalize: bool | None = None,
                 length: float = 1.0,
                 reduction: str = 'mean',
                 loss_weight: float = 1.0):
        super().__init__()
        if form not in FORMS:
            raise ValueError(f'Expected argument `form` of DRLoss to be one of {FORMS}, but got {form!r}.')
        if reduction not in REDUCTIONS:
            raise ValueError(f'Expected argument `reduction` of DRLoss to be one of {REDUCTIONS}, but got '
                             f'{reduction!r}.')
        if not length > 0:
            raise ValueError(f'Expected argument `length` of DRLoss to be positive, but got {length}.')
        self.form = form
        self.normalize = normalize
        self.length = length
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(self,
                features: torch.Tensor,
                labels: torch.Tensor,
                codes: torch.Tensor,
                weight: torch.Tensor | None = None,
                avg_factor: int | None = None) -> torch.Tensor:
        """Loss of a batch.

        Args:
            features (Tensor): Features, shape (N, d).
            labels (Tensor): Class indices (N,) or soft labels (N, K).
            codes (Tensor): Code vectors, shape (K, d).
            weight (Tensor, optional): Weight of each sample, shape (N,). Defaults to None.
            avg_factor (int, optional): Divisor of the mean instead of N. Defaults to None.

        Returns:
            Tensor: The weighted loss.
        """
        loss = dot_regression_loss(
            features, labels, codes, form=self.form, normalize=self.normalize, length=self.length, reduction='none')
        return self.loss_weight * weight_reduce_loss(loss, weight, self.reduction, avg_factor)

    def extra_repr(self) -> str:
        return f'form={self.form!r}, reduction={self.reduction!r}, loss_weight={self.loss_weight}'
