from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmpretrain.models.losses.utils import weight_reduce_loss
from torch import Tensor

from ...class_counts import read_class_counts
from ...functional.losses import logit_adjusted_cross_entropy
from ...registry import MODELS


@MODELS.register_module()
class LogitAdjustedLoss(BaseModule):
    r"""Cross-entropy of logits shifted by the log class prior.

    `Long-tail learning via logit adjustment <https://arxiv.org/abs/2007.07314>`_ (ICLR 2021, eq. 10); with
    ``tau=1`` it is balanced softmax (`arXiv:2007.10740 <https://arxiv.org/abs/2007.10740>`_).

    .. math::
        L = -\log \frac{e^{f_y + \tau \log \pi_y}}{\sum_k e^{f_k + \tau \log \pi_k}}

    Args:
        tau (float): Strength; 0 is plain cross-entropy. Defaults to 1.
        num_per_class (Sequence[int] | str, optional): Training images per class, from which the prior is taken, or the
            path of the JSON file that ``class_stats.py`` writes. Defaults to None: handed over by
            :class:`ClassCountsHook` from the training data set.
        reduction (str): 'none', 'mean' or 'sum'. Defaults to 'mean'.
        loss_weight (float): Defaults to 1.
    """

    def __init__(self,
                 tau: float = 1.0,
                 num_per_class: Sequence[int] | str | None = None,
                 reduction: str = 'mean',
                 loss_weight: float = 1.0) -> None:
        super().__init__()
        if reduction not in ('none', 'mean', 'sum'):
            raise ValueError(f"Expected `reduction` to be one of 'none', 'mean', 'sum', but got {reduction!r}.")
        self.tau, self.reduction, self.loss_weight = float(tau), reduction, float(loss_weight)
        self.num_per_class = read_class_counts(num_per_class, 'LogitAdjustedLoss')
        # It follows from the data: neither in the state_dict nor a buffer, whose shape EMAHook takes for final.
        self.log_prior: Tensor | None = None
        if self.num_per_class is not None:
            self.set_prior(self.num_per_class)

    def set_class_counts(self, num_per_class: Sequence[int]) -> None:
        """Take the prior from the training counts; counts given in the config must agree with them."""
        num_per_class = [int(n) for n in num_per_class]
        if self.num_per_class is not None and self.num_per_class != num_per_class:
            raise ValueError(f'`num_per_class` of {type(self).__name__} is {self.num_per_class[:10]}..., but the '
                             f'training data set has {num_per_class[:10]}...; remove it from the config.')
        self.set_prior(num_per_class)

    def set_prior(self, prior: Sequence[float]) -> None:
        """Set the label distribution (any positive multiple of it) that training samples are drawn from."""
        prior = torch.as_tensor(prior, dtype=torch.float64)
        if self.tau and not ((prior > 0).all() and prior.isfinite().all()):
            raise ValueError(f'Logit adjustment needs a positive share of each class, but the prior is zero or not '
                             f'finite for classes {(~(prior > 0)).nonzero().flatten().tolist()[:10]}; remove classes '
                             'without training images, or set tau=0: plain cross-entropy.')
        self.log_prior = (prior / prior.sum()).log().float()

    def forward(self,
                cls_score: Tensor,
                label: Tensor,
                weight: Tensor | None = None,
                avg_factor: int | None = None,
                reduction_override: str | None = None) -> Tensor:
        """Loss of logits (N, K, ...) against integer (N, ...) or soft labels (N, K, ...); ``weight`` is (N, ...)."""
        if self.log_prior is None:
            if self.tau:
                raise RuntimeError(f'{type(self).__name__} has no class counts: add dict(type="ClassCountsHook") (in '
                                   'segmentation "PixelCountsHook") to the hooks, or give `num_per_class`.')
        elif len(self.log_prior) != cls_score.shape[1]:
            raise ValueError(f'The class counts are of K={len(self.log_prior)} classes, the logits of '
                             f'{cls_score.shape[1]}; set head.num_classes to the number of classes of the data.')
        elif self.log_prior.device != cls_score.device:
            self.log_prior = self.log_prior.to(cls_score.device)
        loss = logit_adjusted_cross_entropy(cls_score, label, self.log_prior, self.tau)
        reduction = reduction_override or self.reduction
        return self.loss_weight * weight_reduce_loss(
            loss, None if weight is None else weight.float(), reduction, avg_factor)
