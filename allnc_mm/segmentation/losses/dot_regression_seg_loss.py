from collections.abc import Sequence

from torch import Tensor

from ...functional.dot_regression import dot_regression_loss
from ...registry import MODELS
from .pixel_reduction import PixelLoss


@MODELS.register_module()
class DotRegressionSegLoss(PixelLoss):
    r"""Dot regression of pixels onto a fixed code: :math:`(\cos(x, code_y) - 1)^2 / 2`.

    `Inducing Neural Collapse in Imbalanced Learning <https://arxiv.org/abs/2203.09081>`_. A decode head hands its loss
    logits; those of a :class:`FixedClassifier` are ``length`` times the cosines, interpolated to the size of the
    labels. ``AllNCSegmentor`` sets the length.

    Args:
        class_weight (Sequence[float], optional): (K,). Defaults to None; :class:`SegClassWeightsHook` computes it.
        loss_weight (float): Defaults to 1.
        loss_name (str): Defaults to 'loss_dr'.
    """

    def __init__(self, class_weight: Sequence[float] | None = None, loss_weight: float = 1.0,
                 loss_name: str = 'loss_dr') -> None:
        super().__init__()
        self.init_pixels(class_weight, loss_name)
        self.loss_weight = float(loss_weight)
        self.length: float | None = None

    def set_length(self, length: float) -> None:
        """Tell the factor between cosines and logits."""
        self.length = length

    def forward(self, cls_score: Tensor, label: Tensor, weight: Tensor | None = None, ignore_index: int = 255,
                reduction_override: str | None = None, **kwargs) -> Tensor:
        """Loss of logits (N, K, H, W) against labels (N, H, W); ``weight`` is (N, H, W)."""
        if self.length is None:
            raise RuntimeError("DotRegressionSegLoss needs a fixed code: set model.type='AllNCSegmentor' and "
                               "model.classifier=dict(type='FixedClassifier').")
        label, valid = self.labelled(label, cls_score.shape[1], ignore_index)
        cosine = cls_score.float().gather(1, label[:, None]).flatten() / self.length
        # along the code vector, where the feature has the one coordinate cos and the code the coordinate 1
        loss = dot_regression_loss(cosine[:, None], label.new_zeros(len(cosine)), cosine.new_ones(1, 1),
                                   normalize=False, reduction='none')
        return self.loss_weight * self.average(loss.view(label.shape), label, valid, weight, reduction_override)
