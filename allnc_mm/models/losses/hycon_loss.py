from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor

from ...distributed import gather_views
from ...functional.losses import check_positives, hycon_loss
from ...registry import MODELS


@MODELS.register_module()
class HyConLoss(BaseModule):
    """Hybrid contrastive loss of AllNC: activations to their paired view and to their class mean (NC1).

    `All-around Neural Collapse for Imbalanced Classification <https://arxiv.org/abs/2408.07253>`_ (TKDE 2025). The
    formula is :func:`allnc_mm.functional.hycon_loss`; here the batch is gathered over ranks. Arguments as there.

    Args:
        positives (Sequence[str]): Among 'view', 'class', 'mean'. Defaults to ('view', 'mean').
        negatives (bool): InfoNCE form with class-averaged denominator. Defaults to False.
        temperature (float): Of the InfoNCE form. Defaults to 0.1.
        class_balanced (bool): Average anchors within each class first. Defaults to False.
        stop_gradient (bool): Treat targets and means as constants. Defaults to True.
        loss_weight (float): Defaults to 1.
    """

    def __init__(self,
                 positives: Sequence[str] = ('view', 'mean'),
                 negatives: bool = False,
                 temperature: float = 0.1,
                 class_balanced: bool = False,
                 stop_gradient: bool = True,
                 loss_weight: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f'Expected `temperature` to be positive, but got {temperature}; 0.1 is usual.')
        check_positives(positives, negatives)
        self.settings = dict(positives=tuple(positives), negatives=negatives, temperature=temperature,
                             class_balanced=class_balanced, stop_gradient=stop_gradient)
        self.loss_weight = loss_weight

    @property
    def needs_means(self) -> bool:
        """Whether class means are among the positives."""
        return 'mean' in self.settings['positives']

    @property
    def needs_view(self) -> bool:
        """Whether the only positive is the paired view, so that a single view has none."""
        return self.settings['positives'] == ('view', )

    def forward(self,
                pred: Tensor,
                target: Tensor,
                labels: Tensor,
                prototypes: Tensor | None = None,
                present: Tensor | None = None,
                num_classes: int | None = None,
                num_views: int = 1) -> Tensor:
        """Loss of this rank's view-major rows within the batch of all ranks.

        Args:
            pred (Tensor): (V*M, p).
            target (Tensor): (V*M, p).
            labels (Tensor): (V*M,) or soft (V*M, K).
            prototypes (Tensor, optional): (K, p), of the whole batch or its moving average.
            present (Tensor, optional): bool (K,).
            num_classes (int, optional): K; for integer labels without prototypes.
            num_views (int): V.
        """
        if self.settings['stop_gradient']:
            target = target.detach()
        pred, target = gather_views(pred.float(), num_views), gather_views(target.float(), num_views)
        labels = gather_views(labels, num_views)
        return self.loss_weight * hycon_loss(pred, target, labels, prototypes, present=present,
                                             num_classes=num_classes, num_views=num_views, **self.settings)
