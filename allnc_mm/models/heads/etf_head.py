from torch import Tensor

from ...functional.geometry import simplex_etf
from ...registry import MODELS
from .code_head import CodeHead


@MODELS.register_module()
class ETFHead(CodeHead):
    """Classification head whose classifier is a fixed simplex equiangular tight frame.

    From `Inducing Neural Collapse in Imbalanced Learning <https://arxiv.org/abs/2203.09081>`_. Logits are
    ``length * cos(feature, code)``. For K > d + 1, where no such frame exists, use :class:`SoftmaxCodeHead`.

    The published recipe is ``norm_cfg=dict(type='BN1d')`` and ``loss=dict(type='DRLoss')``.

    Args:
        num_classes (int): Number of classes K.
        in_channels (int): Feature dimension d, at least K - 1.
        **kwargs: ``loss``, ``length``, ``learnable_length``, ``rotation``, ``assignment``, ``norm_cfg``, ``seed`` (of
            the orientation), ``topk``, ``cal_acc`` and ``init_cfg`` as in :class:`CodeHead`.

    Raises:
        ValueError: if K > d + 1, and as in :class:`CodeHead`.
    """

    def build_code(self, num_classes: int, dim: int, seed: int) -> Tensor:
        """The frame, shape (K, d)."""
        return simplex_etf(num_classes, dim, seed=seed)
