import torch
from mmpretrain.models.heads import LinearClsHead
from torch import Tensor, nn

from ...registry import MODELS


@MODELS.register_module()
class LWSHead(LinearClsHead):
    r"""Learnable weight scaling: a frozen linear classifier, and one learned factor for each class.

    `Decoupling Representation and Classifier for Long-Tailed Recognition <https://arxiv.org/abs/1910.09217>`_ (ICLR
    2020). With W and b of the first stage,

    .. math::
        f_k = s_k (w_k \cdot z + b_k)

    Args:
        **kwargs: Arguments of ``LinearClsHead``; ``init_cfg`` loads the classifier of the first stage.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.scales = nn.Parameter(torch.ones(self.num_classes))
        self.fc.requires_grad_(False)

    def predict_map(self) -> tuple[Tensor, Tensor]:
        """Weight (K, d) and bias (K,) of the linear map with its factors."""
        return self.scales[:, None] * self.fc.weight, self.scales * self.fc.bias

    def forward(self, feats: tuple[Tensor]) -> Tensor:
        """Logits (N, K)."""
        return self.scales * super().forward(feats)
