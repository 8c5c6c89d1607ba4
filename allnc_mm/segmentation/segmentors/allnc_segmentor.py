from collections.abc import Sequence

import numpy as np
import torch
import torch.nn as nn
from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder
from mmseg.utils import add_prefix
from torch import Tensor

from ...registry import MODELS
from ..heads.fixed_classifier import FixedClassifier
from ..losses.branch_loss import BranchLoss
from ..utils.features import capture_features, classifier_weight, last_head


class _AllNCMixin:
    """What :class:`AllNCSegmentor` and :class:`AllNCCascadeSegmentor` add to mmseg's segmentors."""

    def __init__(self,
                 *args,
                 classifier: dict | None = None,
                 loss_rebalanced: dict | None = None,
                 bilateral: bool = False,
                 shared: bool = False,
                 geometry: dict | None = None,
                 center: dict | None = None,
                 view: dict | None = None,
                 **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if bilateral and loss_rebalanced is None:
            raise ValueError('AllNCSegmentor(bilateral=True) has no loss for the re-balanced half of the batch; set '
                             "loss_rebalanced=dict(type='LogitAdjustedSegLoss').")
        if shared and not bilateral:
            raise ValueError('AllNCSegmentor(shared=True) lets both branches see both halves of a bilateral batch; set '
                             'bilateral=True, or remove `shared`: without halves they do so anyway.')
        self.bilateral, self.shared = bilateral, shared
        self.view = None if view is None else MODELS.build(dict(dict(type='PhotometricView'), **view))
        self.num_views = 1 if view is None else 2
        self.geometry = self.center = None
        if all(part is None for part in (classifier, loss_rebalanced, geometry, center)):
            return
        head = last_head(self)
        if head.out_channels != head.num_classes:
            raise ValueError(f'AllNCSegmentor needs one logit for each class, but decode_head.out_channels is '
                             f'{head.out_channels} for num_classes={head.num_classes}; set out_channels=2.')
        shape = dict(num_classes=head.num_classes, in_channels=head.conv_seg.in_channels)
        feature = dict(shape, ignore_index=head.ignore_index, align_corners=head.align_corners)
        if classifier is not None:
            given = dict(type='FixedClassifier', norm_cfg=head.norm_cfg, **shape)
            self._fix_classifier(head, self._part(given, classifier))
        if loss_rebalanced is not None:
            losses = head.loss_decode if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]
            halves = bilateral and not shared
            if halves and head.sampler is not None and getattr(head.sampler, 'thresh', 0) is None:
                raise ValueError('OHEMPixelSampler without `thresh` ranks the losses of all images, but each branch '
                                 'sees one half of a bilateral batch; set decode_head.sampler.thresh, or shared=True.')
            branches = [BranchLoss(loss, False, halves, self.num_views) for loss in losses]
            branches.append(BranchLoss(MODELS.build(loss_rebalanced), True, halves, self.num_views))
            head.loss_decode = nn.ModuleList(branches)
        for loss in head.loss_decode.modules():
            if hasattr(loss, 'set_length'):
                self._set_length(head, loss)
        if geometry is not None:
            self.geometry = self._part(dict(type='PixelGeometry', **feature), geometry)
            hycon = self.geometry.hycon
            if hycon is not None and view is None and hycon.needs_view:
                raise ValueError("HyCon with positives=['view'] alone needs a second view: set model.view=dict(type="
                                 "'PhotometricView'), or positives=['mean'].")
        if center is not None:
            self.center = self._part(dict(type='CenterCollapseHead', in_index=0, **feature), center)

    @staticmethod
    def _part(given: dict, cfg: dict) -> nn.Module:
        """Build a part; the number of classes and of channels are those of the decode head."""
        for key in ('num_classes', 'in_channels'):
            if cfg.get(key, given[key]) != given[key]:
                raise ValueError(f'{key} of {cfg.get("type", given["type"])} is {cfg[key]}, but that of the decode '
                                 f'head is {given[key]}; remove it.')
        return MODELS.build({**given, **cfg})

    @staticmethod
    def _fix_classifier(head: nn.Module, classifier: nn.Module) -> None:
        head.conv_seg = classifier
        # the head's default initialization looks for a weight in conv_seg
        init_cfg = head.init_cfg if isinstance(head.init_cfg, (list, tuple)) else [head.init_cfg or {}]
        init_cfg = [{key: value for key, value in item.items() if key != 'override' or 'conv_seg' not in str(value)}
                    for item in init_cfg]
        head.init_cfg = [item for item in init_cfg if 'override' in item or 'layer' in item] or None

    @staticmethod
    def _set_length(head: nn.Module, loss: nn.Module) -> None:
        if not isinstance(head.conv_seg, FixedClassifier):
            raise ValueError(f'{type(loss).__name__} needs a fixed code to regress to, but the classifier of '
                             f"{type(head).__name__} is learned; set model.classifier=dict(type='FixedClassifier').")
        if head.conv_seg.learnable_length:
            raise ValueError(f'FixedClassifier(learnable_length=True) needs a loss on logits, but '
                             f"{type(loss).__name__} works on cosines; set learnable_length=False, or "
                             "loss_decode=dict(type='CrossEntropyLoss').")
        loss.set_length(head.conv_seg.length)

    @property
    def classifier_weight(self) -> Tensor:
        """Tensor: Classifier vectors that predict, shape (K, d)."""
        return classifier_weight(self)

    def branch_priors(self, natural: Sequence[float], partner: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Share of the pixels that each class has in what branch 1 and branch 2 see; arguments as below."""
        first, second = np.asarray(natural), np.asarray(partner)
        return ((first + second) / 2, ) * 2 if self.shared else (first, second)

    def set_sampling_priors(self, natural: Sequence[float], partner: Sequence[float]) -> None:
        """Tell the losses of both branches which share of the pixels each class has in what they see.

        Args:
            natural (Sequence[float]): In the natural half, shape (K,).
            partner (Sequence[float]): In the half of the rare-class crops.
        """
        natural, partner = self.branch_priors(natural, partner)
        for branch in last_head(self).loss_decode:
            if hasattr(branch.loss, 'set_prior'):
                branch.loss.set_prior(partner if branch.rebalanced else natural)

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses of a batch; of a bilateral one [B natural | B rare-class crops]."""
        if self.bilateral and len(inputs) % 2:
            raise ValueError(f'Expected batches of [B natural | B rare-class] images, but got {len(inputs)} images; '
                             "set train_dataloader.batch_sampler=dict(type='RareClassSampler').")
        num_images = len(inputs)
        if self.view is not None:
            inputs, data_samples = torch.cat([inputs, self.view(inputs)]), [*data_samples, *data_samples]
        if self.geometry is None and self.center is None:
            losses = super().loss(inputs, data_samples)
        else:
            with capture_features(self) as captured:
                losses = super().loss(inputs, data_samples)
            if self.geometry is not None:
                labels = last_head(self)._stack_batch_gt(data_samples[:num_images]).squeeze(1)
                losses.update(self.geometry(captured.features, labels, self.classifier_weight, self.num_views))
            if self.center is not None:
                losses.update(add_prefix(self.center.loss((captured.features, ), data_samples), 'center'))
        self._check_branches(losses)
        return losses

    def _check_branches(self, losses: dict) -> None:
        head = last_head(self)
        branches = [m for m in head.loss_decode.modules() if isinstance(m, BranchLoss)]
        if not branches:
            return
        if not any(name.endswith('loss_rebalanced') for name in losses):
            raise ValueError(f'{type(head).__name__} did not call the loss of the second branch: it computes its '
                             'losses in a way of its own. Remove loss_rebalanced, or use a head that hands '
                             'logits and labels to each loss_decode.')
        losses['gbbn_eta'] = branches[0].eta.clone()


@MODELS.register_module()
class AllNCSegmentor(_AllNCMixin, EncoderDecoder):
    """``EncoderDecoder`` with the parts of All-around Neural Collapse, for any decode head that ends in ``conv_seg``.

    `All-around Neural Collapse for Imbalanced Classification <https://arxiv.org/abs/2408.07253>`_ (TKDE 2025), with
    pixels as samples. Each part is left out by default, and then this is a plain ``EncoderDecoder``. All but
    ``classifier`` exist in training only: inference is backbone, decode head and one 1x1 convolution, and a checkpoint
    without ``classifier`` loads into a stock ``EncoderDecoder``.

    Args:
        *args, **kwargs: Arguments of ``EncoderDecoder``.
        classifier (dict, optional): :class:`FixedClassifier` in place of the learned ``conv_seg``. Defaults to None.
        loss_rebalanced (dict, optional): Pixel loss of the second branch of GBBN, for example
            ``dict(type='LogitAdjustedSegLoss')``; the first has the head's ``loss_decode``, and :class:`GBBNHook` moves
            from one to the other. Defaults to None, one branch.
        bilateral (bool): Whether batches are [B natural | B rare-class crops], one half for each branch, as
            :class:`RareClassSampler` yields them. Otherwise all images serve both branches. Defaults to False.
        shared (bool): Whether the losses of both branches see both halves, instead of one each: no image is wasted when
            eta leaves a branch. Defaults to False.
        geometry (dict, optional): :class:`PixelGeometry`, the HyCon and P2P terms. Defaults to None.
        center (dict, optional): :class:`CenterCollapseHead` on the decoder's features. Defaults to None.
        view (dict, optional): :class:`PhotometricView`, a second view of each crop for HyCon; doubles the cost of a
            step. Defaults to None.

    Raises:
        ValueError: for parts that contradict each other or do not fit the head.
    """


@MODELS.register_module()
class AllNCCascadeSegmentor(_AllNCMixin, CascadeEncoderDecoder):
    """``CascadeEncoderDecoder`` (OCR) with the parts of :class:`AllNCSegmentor` on its last head.

    Arguments as there.
    """
