import torch
from mmpretrain.models.heads import ClsHead
from mmpretrain.structures import DataSample
from torch import Tensor

from ...registry import MODELS


@MODELS.register_module()
class ContrastiveClsHead(ClsHead):
    r"""A classification head trained beside a contrastive loss on further views of the image.

    View 1 trains the classifier, views 2 to V the contrastive loss behind a projector that exists for training only:

    .. math::
        L = L_{cls}(f(z^1), y) + L_{contrast}(g(z^2), \dots, g(z^V), y)

    It is the common part of supervised contrastive learning, BCL and ProCo. It works in a plain ``ImageClassifier``,
    whose data preprocessor must be ``MultiViewDataPreprocessor``.

    Args:
        classifier (dict): The classification head with its loss, for example ``SphericalHead``.
        contrast (dict): ``SupConLoss`` or ``ProCoLoss``.
        projector (dict): Neck z -> g, for example mmpretrain's ``NonLinearNeck``.
        prototypes (dict, optional): Neck from classifier vectors to prototypes of the contrastive loss, BCL's class
            complement. Defaults to None.
        num_views (int): V, what the pipeline's ``MultiView`` yields. Defaults to 3.
        init_cfg (dict, optional): Defaults to None.
    """

    def __init__(self,
                 classifier: dict,
                 contrast: dict,
                 projector: dict,
                 prototypes: dict | None = None,
                 num_views: int = 3,
                 init_cfg: dict | None = None) -> None:
        classifier = MODELS.build(classifier)
        super().__init__(loss=classifier.loss_module, init_cfg=init_cfg)
        if num_views < 2:
            raise ValueError('Expected `num_views` of ContrastiveClsHead to be at least 2 (one for the classifier, the '
                             f'others for the contrastive loss), but got {num_views}.')
        self.classifier = classifier
        self.contrast = MODELS.build(contrast)
        self.projector = MODELS.build(projector)
        self.prototypes = None if prototypes is None else MODELS.build(prototypes)
        self.num_views = num_views
        self.num_classes, self.in_channels = classifier.num_classes, classifier.in_channels

    @property
    def classifier_weight(self) -> Tensor:
        """Classifier vectors (K, d)."""
        weight = getattr(self.classifier, 'classifier_weight', None)
        return self.classifier.fc.weight if weight is None else weight

    def pre_logits(self, feats: tuple[Tensor]) -> Tensor:
        """What the classifier reads."""
        return self.classifier.pre_logits(feats)

    def forward(self, feats: tuple[Tensor]) -> Tensor:
        """Logits (N, K)."""
        return self.classifier(feats)

    def loss(self, feats: tuple[Tensor], data_samples: list[DataSample], **kwargs) -> dict[str, Tensor]:
        """Losses of V*M view-major rows; soft labels of view 1 (mixed images) are the classifier's.

        Raises:
            ValueError: if the rows are not those of V views, or labels of views 2 to V are soft.
        """
        rows = len(feats[-1])
        if rows % self.num_views:
            raise ValueError(f'ContrastiveClsHead expects {self.num_views} views of each image, but got {rows} rows; '
                             f'use MultiView with {self.num_views} views in the pipeline, and '
                             'MultiViewDataPreprocessor.')
        size = rows // self.num_views
        if 'gt_score' in data_samples[size]:
            raise ValueError('The contrastive loss of ContrastiveClsHead needs integer labels, but got soft ones '
                             '(gt_score); set data_preprocessor.mixed_views=1, or remove the batch augmentation.')
        losses = self.classifier.loss(tuple(f[:size] for f in feats), data_samples[:size], **kwargs)
        losses['loss_cls'] = losses.pop('loss')  # mmengine logs the total as 'loss'
        labels = torch.cat([sample.gt_label for sample in data_samples[size:]])
        features = self.projector((feats[-1][size:], ))[-1]
        extra = {}
        if self.prototypes is not None:
            extra['prototypes'] = self.prototypes((self.classifier_weight, ))[-1]
        losses['loss_contrast'] = self.contrast(features, labels, num_classes=self.num_classes,
                                                num_views=self.num_views - 1, **extra)
        return losses
