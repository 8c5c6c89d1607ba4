import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmpretrain.evaluation.metrics import Accuracy
from mmpretrain.models.heads import ClsHead
from mmpretrain.structures import DataSample
from torch.nn.utils.parametrizations import orthogonal

from ...functional.geometry import simplex_etf, unit_rows
from ...registry import MODELS


@MODELS.register_module()
class ETFHead(ClsHead):
    r"""Classification head whose classifier is a fixed simplex equiangular tight frame.

    From `Inducing Neural Collapse in Imbalanced Learning <https://arxiv.org/abs/2203.09081>`_. Logits are
    ``length * cos(feature, code)``. The code is a buffer: it is saved, restored, and never trained.

    The published recipe is ``norm_cfg=dict(type='BN1d')`` and ``loss=dict(type='DRLoss')``.

    Args:
        num_classes (int): Number of classes K.
        in_channels (int): Feature dimension d, at least K - 1.
        loss (dict, optional): A loss on features and codes (one with ``needs_codes = True``, such as ``DRLoss``), or
            any classification loss on logits, such as ``dict(type='CrossEntropyLoss')``. Defaults to None, that is
            ``dict(type='DRLoss')``.
        length (float): Scale of the logits. At 16 the cross-entropy of a perfectly collapsed feature is below 1e-3
            for every K up to 8,142; predicted labels do not depend on it. Defaults to 16.0.
        learnable_length (bool): Whether the scale is learned; it stays positive. Only for a loss on logits, the
            others do not see it. Defaults to False.
        rotation (bool): Whether to learn an orthogonal d x d rotation of the whole code, started at the identity. It
            costs one matrix exponential of that size a step. Defaults to False.
        norm_cfg (dict, optional): Normalisation layer on the features, before their L2 normalisation. Defaults to
            None: no layer.
        seed (int): Seed of the orientation of the code. Defaults to 0.
        topk (int | tuple[int]): Top-k accuracy. Defaults to ``(1, )``.
        cal_acc (bool): Whether to calculate accuracy during training, for hard labels only. Defaults to False.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ValueError: if K < 2 or K > d + 1, for a length that is not positive, for ``learnable_length`` with a loss that
            does not see it, and on loading a checkpoint whose code has another shape.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 loss: dict | nn.Module | None = None,
                 length: float = 16.0,
                 learnable_length: bool = False,
                 rotation: bool = False,
                 norm_cfg: dict | None = None,
                 seed: int = 0,
                 topk: int | tuple[int, ...] = (1, ),
                 cal_acc: bool = False,
                 init_cfg: dict | None = None):
        super().__init__(loss=loss or dict(type='DRLoss'), topk=topk, cal_acc=cal_acc, init_cfg=init_cfg)
        try:
            code = simplex_etf(num_classes, in_channels, seed=seed, dtype=torch.float32)
        except ValueError as error:
            raise ValueError(f'ETFHead(num_classes={num_classes}, in_channels={in_channels}): {error}') from error
        if not length > 0:
            raise ValueError(f'Expected argument `length` of ETFHead to be positive, but got {length}.')
        self.needs_codes = getattr(self.loss_module, 'needs_codes', False)
        if learnable_length and self.needs_codes:
            raise ValueError('ETFHead(learnable_length=True) needs a loss on logits, but '
                             f'{type(self.loss_module).__name__} works on features and codes and never sees '
                             'the length; set learnable_length=False, or loss=dict(type=\'CrossEntropyLoss\').')
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.register_buffer('code', code)
        if learnable_length:
            self.log_length = nn.Parameter(torch.tensor(math.log(length)))
        else:
            self.length = length
        self.learnable_length = learnable_length
        self.norm = None if norm_cfg is None else build_norm_layer(norm_cfg, in_channels)[1]
        self.rotation = None
        if rotation:
            linear = nn.Linear(in_channels, in_channels, bias=False)
            nn.init.eye_(linear.weight)
            self.rotation = orthogonal(linear)

    @property
    def classifier_weight(self) -> torch.Tensor:
        """Tensor: Unit classifier vectors (K, d), the code after its rotation."""
        if self.rotation is None:
            return self.code
        with torch.autocast(self.code.device.type, enabled=False):
            return self.rotation(self.code)

    def pre_logits(self, feats: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Features (N, d) after the normalisation layer; their L2 normalisation belongs to the logits and the loss."""
        features = feats[-1]
        if features.ndim != 2 or features.shape[1] != self.in_channels:
            raise ValueError(f'ETFHead expects features of shape (N, in_channels={self.in_channels}), but got '
                             f'{tuple(features.shape)}; set in_channels to the dimension of the features, and '
                             'neck=dict(type=\'GlobalAveragePooling\') to pool feature maps.')
        return features if self.norm is None else self.norm(features)

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        with torch.autocast(features.device.type, enabled=False):
            code = self.classifier_weight
            cosine = F.linear(unit_rows(features.to(code.dtype)), code)
            return (self.log_length.exp() if self.learnable_length else self.length) * cosine

    def forward(self, feats: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Logits (N, K), ``length * cos(feature, code)``."""
        return self._logits(self.pre_logits(feats))

    def loss(self, feats: tuple[torch.Tensor, ...], data_samples: list[DataSample], **kwargs) -> dict:
        """Losses of a batch; soft labels are taken from ``gt_score`` where the samples have it.

        Args:
            feats (tuple[Tensor]): Features, the last of shape (N, d).
            data_samples (list[DataSample]): N annotations.
            **kwargs: Other keyword arguments of the loss module.

        Returns:
            dict[str, Tensor]: ``loss``, and ``accuracy_top-k`` if ``cal_acc``.
        """
        if not self.needs_codes:
            return super().loss(feats, data_samples, **kwargs)
        features = self.pre_logits(feats)
        soft = 'gt_score' in data_samples[0]
        if soft:
            target = torch.stack([sample.gt_score for sample in data_samples])
        else:
            target = torch.cat([sample.gt_label for sample in data_samples])
        losses = dict(loss=self.loss_module(features, target, self.classifier_weight, **kwargs))
        if self.cal_acc:
            if soft:
                raise ValueError('ETFHead(cal_acc=True) got soft labels (gt_score), which have no accuracy; set '
                                 'cal_acc=False, or remove the batch augmentation.')
            with torch.no_grad():
                accuracy = Accuracy.calculate(self._logits(features), target, topk=self.topk)
            losses.update({f'accuracy_top-{k}': value for k, value in zip(self.topk, accuracy)})
        return losses

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # mmengine only warns about a mismatched shape: training would go on with another code than the checkpoint's.
        saved = state_dict.get(prefix + 'code')
        if saved is not None and saved.shape != self.code.shape:
            raise ValueError(
                f'The checkpoint holds an ETF code {prefix + "code"!r} of shape (num_classes, in_channels) = '
                f'{tuple(saved.shape)}, but this ETFHead has {tuple(self.code.shape)}; set num_classes and in_channels '
                'to those of the checkpoint, or load the trunk alone: backbone.init_cfg=dict(type=\'Pretrained\', '
                'checkpoint=..., prefix=\'backbone\') instead of load_from.')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
