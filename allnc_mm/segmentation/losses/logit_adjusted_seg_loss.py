from collections.abc import Sequence

from torch import Tensor

from ...models.losses.logit_adjusted_loss import LogitAdjustedLoss
from ...registry import MODELS
from .pixel_reduction import PixelLoss


@MODELS.register_module()
class LogitAdjustedSegLoss(LogitAdjustedLoss, PixelLoss):
    r"""Cross-entropy of pixels whose logits are shifted by the log class prior; for any decode head.

    The pixel form of :class:`LogitAdjustedLoss`: with ``tau=1`` balanced softmax, with ``tau=0`` plain cross-entropy,
    with ``class_weight`` weighted by class. The mean is over the labelled pixels.

    Args:
        tau (float): Strength; 0 is plain cross-entropy. Class weights :math:`n_k^{-p}` move the decision towards rare
            classes by p + tau (1: balanced), so with tau < 0 their pixels keep the gradient of p where IoU wants less.
            Defaults to 1.
        num_per_class (Sequence[int], optional): Training pixels per class. Defaults to None: handed over by
            :class:`PixelCountsHook` from the training data.
        class_weight (Sequence[float], optional): (K,). Defaults to None; :class:`SegClassWeightsHook` computes it.
        loss_weight (float): Defaults to 1.
        loss_name (str): Defaults to 'loss_ce'.
    """

    def __init__(self,
                 tau: float = 1.0,
                 num_per_class: Sequence[int] | None = None,
                 class_weight: Sequence[float] | None = None,
                 loss_weight: float = 1.0,
                 loss_name: str = 'loss_ce') -> None:
        super().__init__(tau=tau, num_per_class=num_per_class, loss_weight=loss_weight)
        self.init_pixels(class_weight, loss_name)

    def forward(self, cls_score: Tensor, label: Tensor, weight: Tensor | None = None, ignore_index: int = 255,
                reduction_override: str | None = None, **kwargs) -> Tensor:
        """Loss of logits (N, K, H, W) against labels (N, H, W); ``weight`` is (N, H, W)."""
        label, valid = self.labelled(label, cls_score.shape[1], ignore_index)
        loss = super().forward(cls_score, label, reduction_override='none')
        return self.average(loss, label, valid, weight, reduction_override)
