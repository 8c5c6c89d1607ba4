import torch
from torch import Tensor, nn

from ...distributed import gather
from ...functional.geometry import unit_rows
from ...functional.prototypes import class_statistics, spherical_class_means
from ...registry import MODELS
from .spherical_head import SphericalHead

UNSEEN = -1e4  # its exponential is exactly 0 in float32, and a smoothed label times it is finite


@MODELS.register_module()
class CMFHead(SphericalHead):
    r"""Class-mean-feature classifier: the classifier vectors are moving means of the features, not parameters.

    From `Generalized Neural Collapse for a Large Number of Classes <https://arxiv.org/abs/2310.05351>`_ (Jiang et al.,
    ICML 2024). As features and classifier agree at collapse (GNC3), the classifier need not be learned. In each
    training step, before the logits and without gradient,

    .. math:: w_k \leftarrow \operatorname{normalise}\Big(\beta w_k + (1 - \beta) \sum_{i: y_i = k} \hat h_i\Big)

    over the batch of all ranks, so that R ranks with a part of the batch each are one process with all of it. A class
    that has not been seen has no vector: its logit is -1e4, that is, probability 0. Features that are not finite (a
    step that overflowed in half precision) leave the vectors as they are. Evaluation uses the same vectors.

    Args:
        num_classes (int): Number of classes K.
        in_channels (int): Feature dimension d; any, also with K > d + 1.
        momentum (float): beta, the weight of the past, in [0, 1). The paper has .9 and .1. Defaults to 0.9.
        **kwargs: ``loss``, ``temperature``, ``learnable_temperature``, ``temperature_range``, ``norm_cfg``, ``topk``,
            ``cal_acc`` and ``init_cfg`` of :class:`SphericalHead`.

    Raises:
        ValueError: for a momentum outside [0, 1); and as in :class:`SphericalHead`.
    """

    def __init__(self, num_classes: int, in_channels: int, loss: dict | nn.Module | None = None,
                 momentum: float = 0.9, **kwargs):
        super().__init__(num_classes, in_channels, loss=loss, **kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(f'Expected argument `momentum` of CMFHead in [0, 1), but got {momentum}; 0 uses the batch '
                             'alone.')
        self.momentum = momentum

    def _build_vectors(self) -> None:
        self.register_buffer('weight', torch.zeros(self.num_classes, self.in_channels))

    @torch.no_grad()
    def _observe(self, features: Tensor, target: Tensor) -> None:
        if not self.training:
            return
        sums, _ = class_statistics(gather(unit_rows(features.float())), gather(target), self.num_classes)
        sums = sums.nan_to_num(0, 0, 0)  # a loss scaler skips a step that overflowed: the means must survive it too
        self.weight.copy_(spherical_class_means(self.weight, sums, self.momentum))

    def _logits(self, features: Tensor) -> Tensor:
        unseen = (self.weight == 0).all(1)
        return super()._logits(features).masked_fill(unseen, UNSEEN)
