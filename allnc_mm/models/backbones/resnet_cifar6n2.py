from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.models.backbones.resnet import BasicBlock

from ...registry import MODELS


class ZeroPadShortcut(nn.Module):
    """Shortcut without parameters (option A): every ``stride``-th pixel, new channels filled with zeros on both sides.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output, more than ``in_channels``.
        stride (int): Spatial stride.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.left = (out_channels - in_channels) // 2
        self.right = out_channels - in_channels - self.left

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.left, self.right))


@MODELS.register_module()
class ResNetCIFAR6n2(BaseBackbone):
    """ResNet for small images: three stages of n basic blocks, depth 6n + 2.

    Section 4.2 of `Deep Residual Learning for Image Recognition <https://arxiv.org/abs/1512.03385>`_. This is the
    "ResNet-32" of the long-tailed CIFAR literature (with ``shortcut='A'``, that of LDAM-DRW); ``ResNet_CIFAR`` of
    mmpretrain is ResNet-18 to 152 with a small stem, 20 times larger. ``base_channels`` 16 is the standard network, 32
    the doubled one, 64 the wide one.

    Args:
        depth (int): Depth 6n + 2, one of the published ones: 20, 32, 44, 56 or 110. Defaults to 32.
        base_channels (int): Channels of the first stage; the others have 2 and 4 times as many. Defaults to 16.
        in_channels (int): Channels of the image. Defaults to 3.
        shortcut (str): Shortcut where the shape changes: 'A', subsampling and zero padding, or 'B', a strided
            1x1 convolution with normalisation. Defaults to 'A'.
        out_indices (Sequence[int]): Stages whose feature maps are returned, from 0 to 2. Defaults to ``(2, )``.
        frozen_stages (int): Stages that are neither trained nor update their normalisation statistics: -1 none, 0 the
            stem, 1 to 3 the stages up to that one too. Defaults to -1.
        norm_cfg (dict, optional): Normalisation layers. Defaults to None, that is ``dict(type='BN')``.
        init_cfg (dict | list[dict], optional): Initialization config. Defaults to None: Kaiming normal (fan in) for
            convolutions as in the published code, ones for normalisation layers.

    Attributes:
        feat_dim (int): Channels of the last returned map, ``4 * base_channels`` by default.
        res_layers (list[str]): Names of the stages, as in mmpretrain's ResNet.

    Raises:
        ValueError: for another depth, channels that are not positive, an unknown shortcut or stage.
    """

    depths = (20, 32, 44, 56, 110)
    strides = (1, 2, 2)

    def __init__(self,
                 depth: int = 32,
                 base_channels: int = 16,
                 in_channels: int = 3,
                 shortcut: str = 'A',
                 out_indices: Sequence[int] = (2, ),
                 frozen_stages: int = -1,
                 norm_cfg: dict | None = None,
                 init_cfg: dict | list | None = None):
        if depth not in self.depths:
            # 50 is 6n + 2 too, but who writes it means another network.
            raise ValueError(f'Expected argument `depth` of ResNetCIFAR6n2 to be one of {self.depths}, but got '
                             f'{depth}; ResNet-18, 34 and 50 for small images are ResNet_CIFAR of mmpretrain.')
        for name, value in dict(base_channels=base_channels, in_channels=in_channels).items():
            if value < 1:
                raise ValueError(f'Expected argument `{name}` of ResNetCIFAR6n2 to be positive, but got {value}.')
        if shortcut not in ('A', 'B'):
            raise ValueError(f'Expected argument `shortcut` of ResNetCIFAR6n2 to be one of (\'A\', \'B\'), but got '
                             f'{shortcut!r}.')
        if not out_indices or not set(out_indices) <= {0, 1, 2}:
            raise ValueError('Expected argument `out_indices` of ResNetCIFAR6n2 to name stages out of (0, 1, 2), but '
                             f'got {out_indices}.')
        if frozen_stages not in range(-1, 4):
            raise ValueError('Expected argument `frozen_stages` of ResNetCIFAR6n2 to be from -1 (none) to 3 (all), but '
                             f'got {frozen_stages}.')
        if init_cfg is None:
            init_cfg = [
                dict(type='Kaiming', layer='Conv2d', mode='fan_in'),
                dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1),
            ]
        super().__init__(init_cfg)
        norm_cfg = norm_cfg or dict(type='BN')
        self.depth = depth
        self.base_channels = base_channels
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.feat_dim = base_channels * 2**max(out_indices)

        self.conv1 = build_conv_layer(None, in_channels, base_channels, 3, padding=1, bias=False)
        self.norm1 = build_norm_layer(norm_cfg, base_channels)[1]
        self.relu = nn.ReLU(inplace=True)
        self.res_layers = []
        width = base_channels
        for i, stride in enumerate(self.strides):
            out_width = base_channels * 2**i
            blocks = []
            for j in range((depth - 2) // 6):
                downsample = None
                if width != out_width:
                    downsample = self._make_shortcut(shortcut, width, out_width, stride, norm_cfg)
                blocks.append(
                    BasicBlock(width, out_width, stride=stride if j == 0 else 1, downsample=downsample,
                               norm_cfg=norm_cfg))
                width = out_width
            self.res_layers.append(f'layer{i + 1}')
            self.add_module(self.res_layers[-1], nn.Sequential(*blocks))
        self._freeze()

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for name in ('conv1', 'norm1', *self.res_layers[:self.frozen_stages]):
            getattr(self, name).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    @staticmethod
    def _make_shortcut(shortcut: str, in_channels: int, out_channels: int, stride: int, norm_cfg: dict) -> nn.Module:
        if shortcut == 'A':
            return ZeroPadShortcut(in_channels, out_channels, stride)
        return nn.Sequential(
            build_conv_layer(None, in_channels, out_channels, 1, stride=stride, bias=False),
            build_norm_layer(norm_cfg, out_channels)[1])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Feature maps of the chosen stages.

        Args:
            x (Tensor): Images, shape (N, in_channels, H, W).

        Returns:
            tuple[Tensor]: Stage i has shape (N, base_channels * 2^i, H / 2^i, W / 2^i).
        """
        x = self.relu(self.norm1(self.conv1(x)))
        outs = []
        for i, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)
