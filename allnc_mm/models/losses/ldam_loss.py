from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmpretrain.models.losses.utils import weight_reduce_loss
from torch import Tensor

from ...functional.margins import ldam_cross_entropy, ldam_margins
from ...registry import MODELS


@MODELS.register_module()
class LDAMLoss(BaseModule):
    """Label-distribution-aware margin loss.

    `Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss <https://arxiv.org/abs/1906.07413>`_
    (NeurIPS 2019); the formula is :func:`allnc_mm.functional.ldam_cross_entropy`, the margins are
    :func:`allnc_mm.functional.ldam_margins` of the training counts, which :class:`ClassCountsHook` hands over. It
    belongs to a cosine classifier such as ``SphericalHead``, whose scale 1 / temperature (30 in the paper) multiplies
    the margins.

    Args:
        max_margin (float): Margin of the rarest class, as a cosine. Defaults to 0.5.
        scale (float): Scale of the logits, 1 / temperature of the head; 1 for a linear head. Defaults to 30.
        reduction (str): 'none', 'mean' or 'sum'. Defaults to 'mean'.
        loss_weight (float): Defaults to 1.
    """

    def __init__(self,
                 max_margin: float = 0.5,
                 scale: float = 30.0,
                 reduction: str = 'mean',
                 loss_weight: float = 1.0) -> None:
        super().__init__()
        if reduction not in ('none', 'mean', 'sum'):
            raise ValueError(f"Expected `reduction` to be one of 'none', 'mean', 'sum', but got {reduction!r}.")
        if not scale > 0:
            raise ValueError(f'Expected `scale` to be positive, but got {scale}; it is that of the logits of the head.')
        ldam_margins([1], max_margin)  # refuses a bad margin when the config is read
        self.max_margin, self.reduction, self.loss_weight = max_margin, reduction, float(loss_weight)
        self.scale = float(scale)
        # They follow from the data: neither in the state_dict nor a buffer, whose shape EMAHook takes for final.
        self.margins = torch.empty(0)

    def set_class_counts(self, num_per_class: Sequence[int]) -> None:
        """Compute the margins."""
        self.margins = torch.as_tensor(ldam_margins(num_per_class, self.max_margin), dtype=torch.float32)

    def forward(self,
                cls_score: Tensor,
                label: Tensor,
                weight: Tensor | None = None,
                avg_factor: int | None = None,
                reduction_override: str | None = None) -> Tensor:
        """Loss of logits (N, K) against integer labels (N,) or soft labels (N, K); ``weight`` is (N,)."""
        if len(self.margins) != cls_score.shape[1]:
            raise RuntimeError(f'LDAMLoss has counts of {len(self.margins)} classes for {cls_score.shape[1]} logits; '
                               'add dict(type="ClassCountsHook") to the hooks and check num_classes.')
        if self.margins.device != cls_score.device:
            self.margins = self.margins.to(cls_score.device)
        loss = ldam_cross_entropy(cls_score, label, self.scale * self.margins)
        return self.loss_weight * weight_reduce_loss(
            loss, None if weight is None else weight.float(), reduction_override or self.reduction, avg_factor)
