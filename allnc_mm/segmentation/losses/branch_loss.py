import torch
import torch.nn as nn
from torch import Tensor


class BranchLoss(nn.Module):
    r"""A pixel loss as one branch of GBBN; not registered: ``AllNCSegmentor(loss_rebalanced=...)`` makes them.

    The loss of branch 1 is weighted by eta and sees the natural half of a bilateral batch, that of branch 2 by 1 - eta
    and the re-balanced half; without bilateral batches both see all images. As the ``loss_decode`` of a head it works
    in any head that gives its losses logits and labels.

    Args:
        loss (nn.Module): Any loss of mmseg or ours.
        rebalanced (bool): Whether it is branch 2.
        bilateral (bool): Whether batches (each view of them) are [B natural | B re-balanced].
        num_views (int): V of a view-major batch.
    """

    def __init__(self, loss: nn.Module, rebalanced: bool, bilateral: bool, num_views: int) -> None:
        super().__init__()
        self.loss, self.rebalanced, self.bilateral, self.num_views = loss, rebalanced, bilateral, num_views
        self.register_buffer('eta', torch.ones(()), persistent=False)  # it follows from the progress

    @property
    def loss_name(self) -> str:
        """Name in the log: 'loss_rebalanced', or that of the loss of branch 1."""
        return 'loss_rebalanced' if self.rebalanced else self.loss.loss_name

    def set_eta(self, eta: float) -> None:
        """Set the weight of branch 1; called by :class:`GBBNHook` before each iteration."""
        self.eta.fill_(eta)

    def _rows(self, x: Tensor | None) -> Tensor | None:
        if x is None or not self.bilateral:
            return x
        return x.unflatten(0, (self.num_views, 2, -1))[:, int(self.rebalanced)].flatten(0, 1)

    def forward(self, cls_score: Tensor, label: Tensor, weight: Tensor | None = None, **kwargs) -> Tensor:
        """Weighted loss of the branch's rows; arguments as of mmseg's losses."""
        loss = self.loss(self._rows(cls_score), self._rows(label), weight=self._rows(weight), **kwargs)
        return (1 - self.eta if self.rebalanced else self.eta) * loss
