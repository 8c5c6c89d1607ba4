from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmpretrain.models.losses import FocalLoss
from torch import Tensor

from ...distributed import gather
from ...functional.margins import class_balanced_weights, inverse_frequency_weights
from ...registry import MODELS


@MODELS.register_module()
class ReweightedLoss(BaseModule):
    r"""Any classification loss with class weights that follow from the class counts.

    .. math::
        L = \frac{1}{Z} \sum_i w_{y_i} L_i, \qquad
        w_k \propto \frac{1 - \beta}{1 - \beta^{n_k}} \;\text{or}\; n_k^{-power}, \qquad \sum_k w_k = K

    The first weights are those of `class-balanced loss <https://arxiv.org/abs/1901.05555>`_ (CVPR 2019). A soft label
    gives the classes' losses, weighted by label and class weight, as mixtures of images are defined; of mmpretrain's
    ``FocalLoss``, too, which by itself makes another function of a soft label, smallest at more extreme probabilities.
    The counts come from :class:`ClassCountsHook`. With ``DRWHook`` the weights stay 1 until late in the training
    (deferred re-weighting, DRW, of LDAM). Also behind a re-balancing sampler they are those of the natural counts, as
    in GLMC.

    Args:
        loss (dict): The loss of single samples: ``CrossEntropyLoss``, ``LDAMLoss``, ``LogitAdjustedLoss``, mmpretrain's
            ``FocalLoss``, ...
        beta (float, optional): Of the effective number of samples; 0 for weights of 1. Defaults to 0.9999.
        power (float, optional): Weights n_k^-power instead; then ``beta`` must be None. Defaults to None.
        normalize (bool): Whether Z is the sum of the weights of the batch of all ranks (as in PyTorch's weighted
            cross-entropy, which LDAM's released code uses), or the number of samples. Defaults to True.
        loss_weight (float): Defaults to 1.
    """

    def __init__(self,
                 loss: dict,
                 beta: float | None = 0.9999,
                 power: float | None = None,
                 normalize: bool = True,
                 loss_weight: float = 1.0) -> None:
        super().__init__()
        if (beta is None) == (power is None):
            raise ValueError(f'Expected one of `beta` and `power`, but got beta={beta} and power={power}; set '
                             'beta=None with `power`.')
        self.beta, self.power, self.normalize, self.loss_weight = beta, power, normalize, float(loss_weight)
        self._balanced([1, 1])  # refuses a bad setting when the config is read
        self.loss = MODELS.build(loss)
        # They follow from the data and the progress: neither in the state_dict nor buffers, whose shapes EMAHook takes
        # for final.
        self.class_weight = self.balanced_weight = torch.empty(0)

    def _balanced(self, num_per_class: Sequence[int]) -> Tensor:
        if self.power is None:
            weight = class_balanced_weights(num_per_class, self.beta)
        else:
            weight = inverse_frequency_weights(num_per_class, self.power)
        return torch.as_tensor(weight, dtype=torch.float32)

    def set_class_counts(self, num_per_class: Sequence[int]) -> None:
        """Compute the weights."""
        self.balanced_weight = self._balanced(num_per_class)
        self.set_reweighting(True)

    def set_prior(self, prior: Sequence[float]) -> None:
        """Hand the label distribution of the samples to the wrapped loss; the weights stay those of the counts."""
        if hasattr(self.loss, 'set_prior'):
            self.loss.set_prior(prior)

    def set_reweighting(self, active: bool) -> None:
        """Switch the weights on, or set all to 1; called by :class:`DRWHook`."""
        self.class_weight = self.balanced_weight if active else torch.ones_like(self.balanced_weight)

    def forward(self, cls_score: Tensor, label: Tensor, avg_factor: int | None = None) -> Tensor:
        """Loss of logits (N, K) against integer labels (N,) or soft labels (N, K)."""
        if len(self.class_weight) != cls_score.shape[1]:
            raise RuntimeError(f'ReweightedLoss has counts of {len(self.class_weight)} classes for '
                               f'{cls_score.shape[1]} logits; add dict(type="ClassCountsHook") to the hooks and check '
                               'num_classes.')
        if self.class_weight.device != cls_score.device:
            self.class_weight = self.class_weight.to(cls_score.device)
        cls_score = cls_score.float()
        if label.ndim == 2:
            label = label.float() * self.class_weight
            weight = label.sum(1)
            if isinstance(self.loss, FocalLoss):  # a sum over the logits, each as the label or as another class
                negative, positive = (self.loss(cls_score, torch.full_like(cls_score, k), reduction_override='none')
                                      for k in (0, 1))
                loss = weight * negative.sum(1) + (label * (positive - negative)).sum(1)
            else:
                loss = self.loss(cls_score, label, reduction_override='none')
        else:
            weight = self.class_weight[label]
            loss = self.loss(cls_score, label, reduction_override='none')
            if loss.ndim == 2:  # a loss per logit
                loss = loss.sum(1)
            loss = loss * weight
        # DistributedDataParallel averages the ranks: each divides by the mean of their sums
        divisor = gather(weight.sum()[None]).mean() if self.normalize else avg_factor or len(loss)
        return self.loss_weight * loss.sum() / divisor
