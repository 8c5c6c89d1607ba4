import warnings

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmpretrain.evaluation.metrics import Accuracy
from mmpretrain.models.heads import ClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ...functional.geometry import unit_rows


class CosineHead(ClsHead):
    """Base of the heads whose logits are ``scale * cos(feature, classifier vector)``; not registered.

    A subclass gives :attr:`scale` and :attr:`classifier_weight`, and keeps its (K, d) vectors in the parameter or
    buffer that :attr:`vectors` names. Here are the losses (on logits, or on features and codes), float32 arithmetic and
    the refusal of checkpoints of another shape.

    Args:
        num_classes (int): Number of classes K, at least 2.
        in_channels (int): Feature dimension d.
        loss (dict): A loss on features and codes (one with ``needs_codes = True``, such as ``DRLoss``), or any
            classification loss on logits, such as ``dict(type='CrossEntropyLoss')``.
        learnable_scale (str, optional): Name of the switch, if it is on, that makes the scale learnable; refused for a
            loss that does not see the scale. Defaults to None.
        norm_cfg (dict, optional): Normalisation layer on the features, before their L2 normalisation. Defaults to
            None: no layer.
        topk (int | tuple[int]): Top-k accuracy. Defaults to ``(1, )``.
        cal_acc (bool): Whether to calculate accuracy during training, for hard labels only. Defaults to False.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ValueError: if K < 2 or d < 1, for a learnable scale with a loss that does not see it, and on loading a
            checkpoint whose vectors have another shape.
    """

    vectors: str  # parameter or buffer that holds the (K, d) vectors
    repels = False  # whether the vectors stay apart by themselves, so that a loss of pure attraction can train

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 loss: dict | nn.Module,
                 learnable_scale: str | None = None,
                 norm_cfg: dict | None = None,
                 topk: int | tuple[int, ...] = (1, ),
                 cal_acc: bool = False,
                 init_cfg: dict | None = None):
        super().__init__(loss=loss, topk=topk, cal_acc=cal_acc, init_cfg=init_cfg)
        for name, value, least in (('num_classes', num_classes, 2), ('in_channels', in_channels, 1)):
            if value < least:
                raise ValueError(f'{type(self).__name__}(num_classes={num_classes}, in_channels={in_channels}): '
                                 f'expected `{name}` to be at least {least}; it follows from data set and neck.')
        self.needs_codes = getattr(self.loss_module, 'needs_codes', False)
        if self.needs_codes and learnable_scale:
            raise ValueError(f'{type(self).__name__}({learnable_scale}=True) needs a loss on logits, but '
                             f'{type(self.loss_module).__name__} works on features and codes and never sees '
                             f'the scale; set {learnable_scale}=False, or loss=dict(type=\'CrossEntropyLoss\').')
        if self.needs_codes and not self.repels:
            warnings.warn(f'{type(self).__name__} with {type(self.loss_module).__name__} attracts only: nothing keeps '
                          'the classes apart, and all features may end in one point. Use a fixed code '
                          '(SoftmaxCodeHead), or loss=dict(type=\'CrossEntropyLoss\').', stacklevel=2)
        self.num_classes, self.in_channels = num_classes, in_channels
        self.norm = None if norm_cfg is None else build_norm_layer(norm_cfg, in_channels)[1]

    @property
    def scale(self) -> float | Tensor:
        """float | Tensor: Factor of the cosines, positive."""
        raise NotImplementedError

    @property
    def classifier_weight(self) -> Tensor:
        """Tensor: Unit classifier vectors (K, d), float32."""
        raise NotImplementedError

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Features (N, d) after the normalisation layer; their L2 normalisation belongs to the logits and the loss."""
        features = feats[-1]
        if features.ndim != 2 or features.shape[1] != self.in_channels:
            raise ValueError(f'{type(self).__name__} expects features of shape (N, in_channels={self.in_channels}), '
                             f'but got {tuple(features.shape)}; set in_channels to the dimension of the features, and '
                             'neck=dict(type=\'GlobalAveragePooling\') to pool feature maps.')
        return features if self.norm is None else self.norm(features)

    def _logits(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            weight = self.classifier_weight
            return self.scale * F.linear(unit_rows(features.to(weight.dtype)), weight)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Logits (N, K), ``scale * cos(feature, classifier vector)``."""
        return self._logits(self.pre_logits(feats))

    def _observe(self, features: Tensor, target: Tensor) -> None:
        """See the features (N, d) and labels, (N,) or (N, K), of a training batch before its logits are formed."""

    def loss(self, feats: tuple[Tensor, ...], data_samples: list[DataSample], **kwargs) -> dict:
        """Losses of a batch; soft labels are taken from ``gt_score`` where the samples have it.

        Args:
            feats (tuple[Tensor]): Features, the last of shape (N, d).
            data_samples (list[DataSample]): N annotations.
            **kwargs: Other keyword arguments of the loss module.

        Returns:
            dict[str, Tensor]: ``loss``, and ``accuracy_top-k`` if ``cal_acc``.
        """
        features = self.pre_logits(feats)
        soft = 'gt_score' in data_samples[0]
        if soft and self.cal_acc:
            raise ValueError(f'{type(self).__name__}(cal_acc=True) got soft labels (gt_score), which have no accuracy; '
                             'set cal_acc=False, or remove the batch augmentation.')
        if soft:
            target = torch.stack([sample.gt_score for sample in data_samples])
        else:
            target = torch.cat([sample.gt_label for sample in data_samples])
        self._observe(features, target)
        if self.needs_codes:
            losses = dict(loss=self.loss_module(features, target, self.classifier_weight, **kwargs))
            logits = self._logits(features.detach()) if self.cal_acc else None
        else:
            logits = self._logits(features)
            losses = dict(loss=self.loss_module(logits, target, avg_factor=len(logits), **kwargs))
        if self.cal_acc:
            accuracy = Accuracy.calculate(logits.detach(), target, topk=self.topk)
            losses.update({f'accuracy_top-{k}': value for k, value in zip(self.topk, accuracy)})
        return losses

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # mmengine only warns about a mismatched shape: training would go on with other vectors than the checkpoint's.
        saved, own = state_dict.get(prefix + self.vectors), getattr(self, self.vectors)
        if saved is not None and saved.shape != own.shape:
            raise ValueError(
                f'The checkpoint holds classifier vectors {prefix + self.vectors!r} of shape (num_classes, '
                f'in_channels) = {tuple(saved.shape)}, but this {type(self).__name__} has {tuple(own.shape)}; set '
                'num_classes and in_channels to those of the checkpoint, or load the trunk alone: backbone.init_cfg='
                'dict(type=\'Pretrained\', checkpoint=..., prefix=\'backbone\') instead of load_from.')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
