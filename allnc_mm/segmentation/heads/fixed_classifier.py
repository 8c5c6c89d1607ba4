import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor

from ...functional.geometry import simplex_etf
from ...geometry_cache import cached_softmax_code
from ...registry import MODELS

GEOMETRIES = ('etf', 'softmax_code')


@MODELS.register_module()
class FixedClassifier(BaseModule):
    r"""Pixel classifier of fixed geometry, in place of the learned ``conv_seg`` of any ``BaseDecodeHead``.

    .. math::
        f_k(x) = length \cdot \cos(norm(x), code_k)

    The code is a simplex ETF (`arXiv:2203.09081 <https://arxiv.org/abs/2203.09081>`_) or, for K > d + 1, where none
    exists, a softmax code (`arXiv:2310.05351 <https://arxiv.org/abs/2310.05351>`_). It is a buffer: saved, restored and
    never trained. ``AllNCSegmentor(classifier=...)`` puts it in and fills in ``num_classes``, ``in_channels`` and
    ``norm_cfg``. It costs a 1x1 convolution, as the learned one does.

    Args:
        num_classes (int): K.
        in_channels (int): d, the ``channels`` of the head.
        geometry (str): 'etf' or 'softmax_code'. Defaults to 'etf'.
        length (float): Scale of the logits, one over the temperature. Defaults to 16.0, at which the cross-entropy of
            perfectly collapsed features is below 1e-3.
        learnable_length (bool): Whether the scale is learned; not for ``DotRegressionSegLoss``. Defaults to False.
        norm_cfg (dict, optional): Normalisation layer before the L2 normalisation. Features right after a ReLU reach
            only one orthant, where no simplex fits. Defaults to None, no layer; in a segmentor to the head's own.
        seed (int): Seed of the code. Defaults to 0.
        init_cfg (dict, optional): Defaults to None.

    Raises:
        ValueError: for an unknown geometry, K and d without it, a length that is not positive, and on loading a
            checkpoint whose code has another shape.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 geometry: str = 'etf',
                 length: float = 16.0,
                 learnable_length: bool = False,
                 norm_cfg: dict | None = None,
                 seed: int = 0,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if geometry not in GEOMETRIES:
            raise ValueError(f'Expected `geometry` of FixedClassifier to be one of {GEOMETRIES}, but got {geometry!r}.')
        if not length > 0:
            raise ValueError(f'Expected `length` of FixedClassifier to be positive, but got {length}.')
        if geometry == 'etf' and num_classes > in_channels + 1:
            raise ValueError(f'FixedClassifier: a simplex ETF of num_classes={num_classes} needs features of dimension '
                             f"{num_classes - 1} at least, but the head has channels={in_channels}; set geometry="
                             "'softmax_code' or widen the head (decode_head.channels).")
        if geometry == 'etf':
            code = simplex_etf(num_classes, in_channels, seed=seed, dtype=torch.float32)
        else:
            code = cached_softmax_code(num_classes, in_channels, seed=seed).float()
        self.register_buffer('code', code)
        self.learnable_length = learnable_length
        if learnable_length:
            self.log_length = nn.Parameter(torch.tensor(math.log(length)))
        else:
            self.length = float(length)
        self.norm = None if norm_cfg is None else build_norm_layer(norm_cfg, in_channels)[1]

    @property
    def classifier_weight(self) -> Tensor:
        """Tensor: Unit classifier vectors (K, d)."""
        return self.code

    def forward(self, x: Tensor) -> Tensor:
        """float32 logits (N, K, h, w) of features (N, d, h, w)."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if self.norm is not None:
                x = self.norm(x)
            norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
            length = self.log_length.exp() if self.learnable_length else self.length
            # a pixel without any activation has no direction; dividing by its length would give it a huge gradient
            scale = length / norm.masked_fill(norm < 1e-6, 1.0)
            return F.conv2d(x, self.code[:, :, None, None]) * scale

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # mmengine only warns about a mismatched shape: training would go on with another code than the checkpoint's.
        saved = state_dict.get(prefix + 'code')
        if saved is not None and saved.shape != self.code.shape:
            raise ValueError(f'The checkpoint holds a code {prefix + "code"!r} of shape (num_classes, channels) = '
                             f'{tuple(saved.shape)}, but this FixedClassifier has {tuple(self.code.shape)}; set '
                             'num_classes and channels of the head to those of the checkpoint.')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
