from collections.abc import Sequence

import torch
import torch.nn as nn
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from ...functional.geometry import simplex_etf, unit_rows
from ...functional.losses import logit_adjusted_cross_entropy
from ...functional.pixels import gather_pixels, sample_pixels
from ...functional.prototypes import class_means
from ...registry import MODELS
from .pixel_geometry import whole_batch_means


@MODELS.register_module()
class CenterCollapseHead(BaseDecodeHead):
    r"""Centre collapse regularisation of CeCo, as an auxiliary head: training only.

    `Understanding Imbalanced Semantic Segmentation Through Neural Collapse <https://arxiv.org/abs/2301.01100>`_ (CVPR
    2023). With c_k the mean feature of the pixels of class k after a 1x1 convolution and normalisation, M a fixed
    simplex ETF and pi the share of the pixels,

    .. math::
        L = \operatorname{mean}_{k\, present} \operatorname{CE}\left(
            s \, M \frac{h_k}{|h_k|} + \tau \log \pi, \; k \right), \qquad h_k = \operatorname{ReLU}(A c_k + b)

    In ``AllNCSegmentor(center=...)`` it reads the decoder's features, as in the paper; in mmseg's ``auxiliary_head``
    those of the backbone. The centres are those of the batch of all ranks, from up to ``max_pixels`` pixels of each
    class and rank; the released code takes all pixels of a rank, at the size of the labels.

    Args:
        channels (int): Channels after the 1x1 convolution. Defaults to 128.
        embed_dims (int): Dimension of h and of the ETF. Defaults to 512.
        scale (float): s. Defaults to 5.0.
        tau (float): Strength of the log frequency; 0 needs no class counts. Defaults to 1.0.
        frozen (bool): Freeze the convolution and the linear map at their random initialisation, as the released code
            does: the loss then reaches the decoder alone. Defaults to False.
        max_pixels (int): Cap for each class and rank. Defaults to 256.
        loss_weight (float): Defaults to 0.8.
        dropout_ratio (float): Of h. Defaults to 0.1.
        norm_cfg (dict, optional): Defaults to ``dict(type='BN')``.
        seed (int): Seed of the ETF. Defaults to 0.
        **kwargs: ``in_channels``, ``num_classes``, ``in_index``, ``ignore_index``, ... of ``BaseDecodeHead``.

    Raises:
        ValueError: for a scale or cap that is not positive, and for K > ``embed_dims`` + 1.
    """

    def __init__(self,
                 in_channels: int,
                 channels: int = 128,
                 embed_dims: int = 512,
                 scale: float = 5.0,
                 tau: float = 1.0,
                 frozen: bool = False,
                 max_pixels: int = 256,
                 loss_weight: float = 0.8,
                 dropout_ratio: float = 0.1,
                 norm_cfg: dict | None = dict(type='BN'),  # noqa: B006
                 seed: int = 0,
                 init_cfg: dict | None = None,
                 **kwargs) -> None:
        super().__init__(in_channels, channels, dropout_ratio=0, norm_cfg=norm_cfg, init_cfg=init_cfg, **kwargs)
        del self.conv_seg  # it classifies centres, not pixels; an unused parameter would stop a distributed run
        if not scale > 0 or max_pixels < 1:
            raise ValueError('Expected `scale` and `max_pixels` of CenterCollapseHead to be positive, but got '
                             f'{scale} and {max_pixels}; 5.0 and 256 are usual.')
        if self.num_classes > embed_dims + 1:
            raise ValueError(f'CenterCollapseHead: a simplex ETF of num_classes={self.num_classes} needs embed_dims >= '
                             f'{self.num_classes - 1}, but got {embed_dims}.')
        self.scale, self.tau, self.max_pixels, self.loss_weight = scale, float(tau), max_pixels, loss_weight
        self.reduce = ConvModule(self.in_channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.gain = nn.Sequential(nn.Linear(channels, embed_dims), nn.ReLU(inplace=True))
        self.drop = nn.Dropout(dropout_ratio)
        self.register_buffer('code', simplex_etf(self.num_classes, embed_dims, seed=seed, dtype=torch.float32))
        # It follows from the data: neither in the state_dict nor a buffer, whose shape EMAHook takes for final.
        self.log_prior: Tensor | None = None
        if frozen:
            for parameter in (*self.reduce.parameters(), *self.gain.parameters()):
                parameter.requires_grad = False

    def set_class_counts(self, num_per_class: Sequence[int]) -> None:
        """Take the log frequency from the pixels per class; called by :class:`PixelCountsHook`."""
        share = torch.as_tensor(num_per_class, dtype=torch.float64)
        # a class without training pixels is never present, and its logit does not matter
        self.log_prior = (share / share.sum()).clamp_min(1e-12).log().float()

    def forward(self, inputs: tuple[Tensor]) -> Tensor:
        """Reduced features (N, channels, h, w)."""
        return self.reduce(self._transform_inputs(inputs))

    def loss(self, inputs: tuple[Tensor], batch_data_samples: list, train_cfg: dict | None = None) -> dict:
        """``loss_center`` of a batch; arguments as of ``BaseDecodeHead``."""
        if self.tau and self.log_prior is None:
            raise RuntimeError("CenterCollapseHead has no class counts: add default_hooks=dict(class_counts=dict(type="
                               "'PixelCountsHook')), or set tau=0.")
        if self.log_prior is not None and self.log_prior.device != self.code.device:
            self.log_prior = self.log_prior.to(self.code.device)
        labels = self._stack_batch_gt(batch_data_samples).squeeze(1)
        features = self.forward(inputs)
        with torch.autocast(features.device.type, enabled=False):
            position, one_hot, share = sample_pixels(labels, self.num_classes, self.max_pixels, self.ignore_index)
            pixels = gather_pixels(features, position, labels.shape[1:], self.align_corners)
            centers, counts = class_means(*whole_batch_means(pixels, one_hot * share[:, None]), self.num_classes)
            present = (counts > 0).float()
            logits = self.scale * self.drop(unit_rows(self.gain(centers))) @ self.code.T
            loss = logit_adjusted_cross_entropy(logits, torch.arange(self.num_classes, device=logits.device),
                                                self.log_prior, self.tau)
            return dict(loss_center=self.loss_weight * (loss * present).sum() / present.sum().clamp_min(1))
