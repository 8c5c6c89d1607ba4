from mmengine.model import BaseModule
from torch import Tensor

from ...distributed import gather_views
from ...functional.losses import hycon_loss
from ...registry import MODELS


@MODELS.register_module()
class SupConLoss(BaseModule):
    r"""Supervised contrastive loss, plain or balanced, over the batch of all ranks.

    With g the unit features, P(i) the other samples of the class of i, A(i) all others, tau the temperature,

    .. math::
        L = \operatorname{mean}_i \frac{-1}{|P(i)|} \sum_{p \in P(i)}
            \log \frac{e^{g_i \cdot g_p / \tau}}{\sum_{a \in A(i)} e^{g_i \cdot g_a / \tau}}

    (`Khosla et al., NeurIPS 2020 <https://arxiv.org/abs/2004.11362>`_). With ``balanced=True`` the denominator is
    averaged within each class and then summed over classes; with prototypes, one for each class joins positives and
    denominator, so that no class is ever absent (class averaging and class complement of `balanced contrastive
    learning, Zhu et al., CVPR 2022 <https://arxiv.org/abs/2207.09052>`_). The formula is
    :func:`allnc_mm.functional.hycon_loss`.

    Args:
        balanced (bool): Class averaging. Defaults to False.
        temperature (float): tau. Defaults to 0.1.
        loss_weight (float): Defaults to 1.
    """

    def __init__(self, balanced: bool = False, temperature: float = 0.1, loss_weight: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f'Expected `temperature` to be positive, but got {temperature}; 0.1 is usual.')
        self.balanced, self.temperature, self.loss_weight = balanced, temperature, float(loss_weight)

    def forward(self,
                features: Tensor,
                labels: Tensor,
                num_classes: int,
                num_views: int = 1,
                prototypes: Tensor | None = None) -> Tensor:
        """Loss of this rank's view-major rows within the batch of all ranks.

        Args:
            features (Tensor): (V*M, p), any scale.
            labels (Tensor): (V*M,) integers.
            num_classes (int): K.
            num_views (int): V. Defaults to 1.
            prototypes (Tensor, optional): (K, p), any scale; the same on all ranks. Defaults to None.
        """
        features, labels = gather_views(features.float(), num_views), gather_views(labels, num_views)
        positives = ('class', ) if prototypes is None else ('class', 'mean')
        return self.loss_weight * hycon_loss(
            features, features, labels, prototypes, num_classes=num_classes, positives=positives, negatives=True,
            temperature=self.temperature, class_average=self.balanced, stop_gradient=False)
