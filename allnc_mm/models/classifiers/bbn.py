import copy

import torch
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.structures import DataSample

from ...registry import MODELS
from ..heads.bbn_head import BBNHead


@MODELS.register_module()
class BBN(ImageClassifier):
    """Bilateral-branch network: a shared trunk whose last residual block exists twice.

    `BBN: Bilateral-Branch Network with Cumulative Learning for Long-Tailed Visual Recognition
    <https://arxiv.org/abs/1912.02413>`_. ``cb_block`` (conventional) sees the uniformly sampled half of the batch,
    ``rb_block`` the re-balanced half; ``BBNHead`` mixes their features by eta. At test each image passes both.

    Batches are those of ``BilateralSampler`` (q=-1 is the paper's reversed sampler), ``[B uniform | B re-balanced]``.
    The trunk runs once on all 2B images, so its batch statistics are those of the whole batch; the released code runs
    it twice.

    Args:
        backbone (dict): A residual network with ``res_layers`` (``ResNetCIFAR6n2``, mmpretrain's ``ResNet``) and at
            least two blocks in its last stage, trained from scratch.
        neck (dict, optional): Pooling of the feature maps (N, 2C, H, W) of both blocks; it must not mix channels.
            Defaults to None, that is ``dict(type='GlobalAveragePooling')``.
        head (dict): ``BBNHead`` with ``in_channels`` C.
        **kwargs: Arguments of ``ImageClassifier``: train_cfg, data_preprocessor, init_cfg.

    Raises:
        TypeError: for a backbone without ``res_layers``, or a head that is no ``BBNHead``.
        ValueError: for a backbone with one block in its last stage, one that does not return that stage last, or
            with pretrained weights; and for a batch of odd size.
    """

    bilateral = True  # trains on the batches of BilateralSampler

    def __init__(self, backbone: dict, neck: dict | None = None, head: dict | None = None, **kwargs):
        neck = neck or dict(type='GlobalAveragePooling')
        super().__init__(backbone=backbone, neck=neck, head=head, **kwargs)
        backbone = self.backbone
        if not hasattr(backbone, 'res_layers'):
            raise TypeError('BBN duplicates the last residual block of its backbone, but '
                            f'{type(backbone).__name__} has no `res_layers`; use ResNetCIFAR6n2 or ResNet.')
        if not isinstance(self.head, BBNHead):
            raise TypeError(f'BBN needs head=dict(type=\'BBNHead\', ...), but got {type(self.head).__name__}.')
        stage = getattr(backbone, backbone.res_layers[-1])
        if len(stage) < 2:
            raise ValueError(f'BBN takes the last residual block off the backbone, but its last stage has {len(stage)} '
                             'block; use a deeper one, such as ResNetCIFAR6n2 with depth=32.')
        if max(backbone.out_indices) != len(backbone.res_layers) - 1:
            raise ValueError('BBN needs the last stage of its backbone, but got '
                             f'backbone.out_indices={tuple(backbone.out_indices)}; it must contain '
                             f'{len(backbone.res_layers) - 1}.')
        init_cfg = backbone.init_cfg
        cfgs = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg or {}]
        if any(cfg.get('type') == 'Pretrained' for cfg in cfgs):
            raise ValueError('BBN trains its backbone from scratch, but backbone.init_cfg is \'Pretrained\': the names '
                             'of its last block would not match. Remove it, and use load_from for a BBN checkpoint.')
        self.cb_block = stage[-1]
        del stage[-1]
        self.rb_block = copy.deepcopy(self.cb_block)
        for block in (self.cb_block, self.rb_block):  # no longer reached by the initialization of the backbone
            block.init_cfg = copy.deepcopy(init_cfg)

    def extract_feat(self, inputs: torch.Tensor, stage: str = 'neck'):
        """Features of both branches, concatenated and unscaled, for each image.

        Args:
            inputs (Tensor): Images, shape (N, C, H, W).
            stage (str): 'backbone' for the concatenated feature maps, 'neck' for the pooled features (both as a
                tuple), or 'pre_logits' for what the classifier reads, shape (N, 2d). Defaults to 'neck'.

        Returns:
            tuple[Tensor] | Tensor: The features.
        """
        x = self.backbone(inputs)[-1]
        return self._after_trunk(x, x, stage)

    def _after_trunk(self, uniform: torch.Tensor, rebalanced: torch.Tensor, stage: str):
        if stage not in ('backbone', 'neck', 'pre_logits'):
            raise ValueError('Expected argument `stage` to be one of (\'backbone\', \'neck\', \'pre_logits\'), but got '
                             f'{stage!r}.')
        x = (torch.cat([self.cb_block(uniform), self.rb_block(rebalanced)], dim=1), )
        if stage == 'backbone':
            return x
        x = self.neck(x)
        return x if stage == 'neck' else self.head.pre_logits(x)

    def loss(self, inputs: torch.Tensor, data_samples: list[DataSample]) -> dict:
        """Losses of a bilateral batch.

        Args:
            inputs (Tensor): Images, shape (2B, C, H, W), the uniform half first.
            data_samples (list[DataSample]): 2B annotations.

        Returns:
            dict[str, Tensor]: The losses of ``BBNHead``.
        """
        if len(inputs) % 2:
            raise ValueError('BBN needs batches of two equal halves (uniform, re-balanced), but got '
                             f'{len(inputs)} images; set '
                             'train_dataloader.batch_sampler=dict(type=\'BilateralSampler\', q=-1).')
        uniform, rebalanced = self.backbone(inputs)[-1].chunk(2)
        return self.head.loss(self._after_trunk(uniform, rebalanced, 'neck'), data_samples)
