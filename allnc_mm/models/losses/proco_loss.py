from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor

from ...distributed import gather
from ...functional.geometry import unit_rows
from ...functional.losses import logit_adjusted_cross_entropy
from ...functional.prototypes import class_statistics
from ...functional.vmf import MIN_DIM, vmf_concentration, vmf_log_expectation
from ...registry import MODELS


@MODELS.register_module()
class ProCoLoss(BaseModule):
    r"""Probabilistic contrastive loss: the contrast to infinitely many samples of each class.

    `Probabilistic Contrastive Learning for Long-Tailed Visual Recognition <https://arxiv.org/abs/2403.06726>`_ (TPAMI
    2024). Each class is a von Mises-Fisher distribution of its unit features; the expected similarity
    (:func:`allnc_mm.functional.vmf_log_expectation`) is its logit, and the loss their logit-adjusted cross-entropy:

    .. math::
        L = -\log \frac{\pi_y e^{f_y}}{\sum_k \pi_k e^{f_k}}, \qquad
        f_k = \log E_{x \sim vMF(\mu_k, \kappa_k)} e^{z \cdot x / \tau}

    The distributions are estimated, without gradient, from all features since the beginning of the last epoch, as in
    the released code; ``EpochStartHook`` tells when an epoch begins. A class not seen yet starts at a random direction
    of mean length 0.9. The counts come from :class:`ClassCountsHook`.

    Args:
        num_classes (int): K.
        dim (int): Dimension of the projected features, at least 16.
        temperature (float): tau. Defaults to 0.1.
        loss_weight (float): Defaults to 1.
    """

    def __init__(self, num_classes: int, dim: int, temperature: float = 0.1, loss_weight: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f'Expected `temperature` to be positive, but got {temperature}; 0.1 is usual.')
        if dim < MIN_DIM:
            raise ValueError(f'Expected `dim` of ProCoLoss to be at least {MIN_DIM}, but got {dim}; 128 is usual.')
        self.temperature, self.loss_weight = temperature, float(loss_weight)
        self.register_buffer('unseen', 0.9 * unit_rows(torch.randn(num_classes, dim)))
        for name, shape in (('sums', (num_classes, dim)), ('counts', (num_classes, ))):
            self.register_buffer(name, torch.zeros(shape))  # since the beginning of the last epoch
            self.register_buffer(f'epoch_{name}', torch.zeros(shape))  # since the beginning of this one
        # It follows from the data: neither in the state_dict nor a buffer, whose shape EMAHook takes for final.
        self.log_prior = torch.empty(0)

    def set_class_counts(self, num_per_class: Sequence[int]) -> None:
        """Take the prior."""
        counts = torch.as_tensor(num_per_class, dtype=torch.float64)
        if not (counts > 0).all():
            raise ValueError('ProCoLoss needs training images of every class, but there are none of classes '
                             f'{(~(counts > 0)).nonzero().flatten().tolist()[:10]}.')
        self.log_prior = (counts / counts.sum()).log().float()

    def start_epoch(self) -> None:
        """Forget what is older than the last epoch; called by :class:`EpochStartHook`."""
        for name in ('sums', 'counts'):
            getattr(self, name).copy_(getattr(self, f'epoch_{name}'))
            getattr(self, f'epoch_{name}').zero_()

    @torch.no_grad()
    def _update(self, features: Tensor, labels: Tensor) -> Tensor:
        """Take in a batch of all ranks; the mean feature of each class, (K, d)."""
        sums, counts = class_statistics(gather(features.detach()), gather(labels), len(self.unseen))
        finite = sums.isfinite().all(1)  # a loss scaler skips the step of features that overflowed
        sums, counts = torch.where(finite[:, None], sums, 0.0), torch.where(finite, counts, 0.0)
        for prefix in ('', 'epoch_'):
            getattr(self, f'{prefix}sums').add_(sums)
            getattr(self, f'{prefix}counts').add_(counts)
        seen = (self.counts > 0)[:, None]
        return torch.where(seen, self.sums / self.counts.clamp_min(1)[:, None], self.unseen)

    def forward(self, features: Tensor, labels: Tensor, num_classes: int | None = None, num_views: int = 1) -> Tensor:
        """Loss of rows (V*M, d) of any scale against integer labels (V*M,); rows are independent of each other."""
        if len(self.log_prior) != len(self.unseen):
            raise RuntimeError(f'ProCoLoss has counts of {len(self.log_prior)} classes for num_classes='
                               f'{len(self.unseen)}; add dict(type="ClassCountsHook") to the hooks and check '
                               'num_classes.')
        if self.log_prior.device != features.device:
            self.log_prior = self.log_prior.to(features.device)
        features = unit_rows(features.float())
        means = self._update(features, labels)
        logits = vmf_log_expectation(features, unit_rows(means), vmf_concentration(means), self.temperature)
        return self.loss_weight * logit_adjusted_cross_entropy(logits, labels, self.log_prior).mean()
