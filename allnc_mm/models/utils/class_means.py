
import torch
from mmengine.model import BaseModule
from torch import Tensor

from ...functional.prototypes import class_means, class_statistics, ema_class_statistics, straight_through


class ClassMeans(BaseModule):
    """Class means of the batch, or their exponential moving average, kept in float32 buffers.

    The moving average has the value of the average and the gradient of the batch mean (straight-through), so that its
    momentum does not damp the gradient. Sums that are not finite (a loss scaler skips the step of features that
    overflowed) leave the average of their class as it is.

    Args:
        num_classes (int): K.
        dim (int): d.
        momentum (float): Weight of the past, in [0, 1); 0 gives the means of the batch alone. Defaults to 0.9.
    """

    def __init__(self, num_classes: int, dim: int, momentum: float = 0.9) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f'Expected `momentum` in [0, 1), but got {momentum}; 0 uses the batch alone.')
        self.num_classes, self.momentum = num_classes, momentum
        if momentum:
            self.register_buffer('sums', torch.zeros(num_classes, dim))
            self.register_buffer('counts', torch.zeros(num_classes))

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Take in one whole batch (all ranks).

        Args:
            features (Tensor): (N, d).
            labels (Tensor): (N,) or soft (N, K).

        Returns:
            Tuple[Tensor, Tensor]: means (K, d), differentiable, and which classes have one, bool (K,).
        """
        if not self.momentum:
            means, counts = class_means(features, labels, self.num_classes)
            return means, counts > 0
        sums, counts = class_statistics(features, labels, self.num_classes)
        with torch.no_grad():
            new_sums, new_counts = ema_class_statistics(self.sums, self.counts, sums, counts, self.momentum)
            finite = new_sums.isfinite().all(1)
            self.sums.copy_(torch.where(finite[:, None], new_sums, self.sums))
            self.counts.copy_(torch.where(finite, new_counts, self.counts))
            average = self.sums / self.counts.clamp_min(1e-12)[:, None]
        batch = sums / torch.where(counts > 0, counts, 1.0)[:, None]
        return straight_through(average, batch), self.counts > 0
