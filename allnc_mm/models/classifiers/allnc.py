from collections.abc import Sequence

import torch
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor

from ...registry import MODELS


@MODELS.register_module()
class AllNC(ImageClassifier):
    """Classifier of All-around Neural Collapse: bilateral batches, views and mixtures in one forward pass.

    `All-around Neural Collapse for Imbalanced Classification <https://arxiv.org/abs/2408.07253>`_ (TKDE 2025).
    Training batches are those of :class:`BilateralSampler`, [B natural | B re-balanced] per view. Without
    ``mixture`` each half trains its branch (with ``shared``, both); with it the pairs of both halves are mixed, and
    the B mixed images of each view train both. Inference is that of ``ImageClassifier``: backbone, neck, one linear
    map.

    Args:
        backbone, neck, data_preprocessor, ...: As for ``ImageClassifier``; the data preprocessor defaults to
            ``MultiViewDataPreprocessor``.
        head (dict): An ``AllNCHead``.
        mixture (dict, optional): ``MixtureViews``. Defaults to None.
        num_views (int): Views that the pipeline yields per image (mmpretrain's ``MultiView``). Defaults to 1.
        clean_means (bool): With ``mixture``, pass the natural images of the first view unmixed as well and take P2P's
            class means from them; costs 1/V more images. Defaults to False.
        shared (bool): Without ``mixture``, both halves train both branches, so none is without weight when eta is near
            0 or 1; a loss that knows the prior then takes the mean of both. Defaults to False.
    """

    bilateral = True  # trains on the batches of BilateralSampler

    def __init__(self,
                 *args,
                 mixture: dict | None = None,
                 num_views: int = 1,
                 clean_means: bool = False,
                 shared: bool = False,
                 data_preprocessor: dict | None = None,
                 **kwargs) -> None:
        data_preprocessor = dict(dict(type='MultiViewDataPreprocessor'), **(data_preprocessor or {}))
        super().__init__(*args, data_preprocessor=data_preprocessor, **kwargs)
        if num_views < 1:
            raise ValueError(f'Expected `num_views` >= 1, but got {num_views}.')
        if getattr(self.data_preprocessor, 'batch_augments', None) is not None:
            raise ValueError('Batch augmentations (`train_cfg.augments` or `data_preprocessor.batch_augments`) would '
                             "mix the two branches of AllNC; remove them, and set mixture=dict(type='MixtureViews').")
        hycon = self.head.hycon
        if num_views == 1 and hycon is not None and hycon.needs_view:
            raise ValueError("HyCon with positives=['view'] alone needs a second view: set num_views=2, and "
                             "mmpretrain's MultiView in the pipeline, or add 'mean' to the positives.")
        if clean_means and mixture is None:
            raise ValueError('`clean_means` needs `mixture`: without it all samples are clean.')
        if shared and mixture is not None:
            raise ValueError('`shared` is for training without `mixture`: mixed images train both branches anyway; '
                             'remove one of the two.')
        self.mixture = None if mixture is None else MODELS.build(dict(dict(type='MixtureViews'), **mixture))
        self.num_views, self.clean_means, self.shared = num_views, clean_means, shared

    def set_sampling_priors(self, natural: Sequence[float], partner: Sequence[float]) -> None:
        """Tell the losses which label distribution their samples are drawn from.

        Args:
            natural (Sequence[float]): Class distribution of the natural half.
            partner (Sequence[float]): Class distribution of the other half, n_k^q.
        """
        natural, partner = (torch.as_tensor(p, dtype=torch.float64) for p in (natural, partner))
        natural, partner = natural / natural.sum(), partner / partner.sum()
        if self.mixture is not None or self.shared:
            share = 0.5 if self.mixture is None else self.mixture.natural_share(self.num_views)
            natural = partner = share * natural + (1 - share) * partner
        for loss, prior in ((self.head.loss_uniform, natural), (self.head.loss_module, partner)):
            if hasattr(loss, 'set_prior'):
                loss.set_prior(prior)

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Losses of a batch of V*2B view-major rows."""
        if len(inputs) % (2 * self.num_views):
            raise ValueError(f'Expected batches of num_views={self.num_views} views of [B natural | B re-balanced] '
                             f'images, but got {len(inputs)} images; use BilateralSampler as batch_sampler, and '
                             'MultiView with num_views views in the pipeline.')
        if self.mixture is None:
            return self.head.loss(self.extract_feat(inputs), data_samples, num_views=self.num_views,
                                  bilateral=not self.shared)

        labels = torch.cat([sample.gt_label for sample in data_samples])
        images, soft_labels = self.mixture(inputs, labels, self.num_views, self.head.num_classes)
        clean = None
        if self.clean_means:
            natural = len(inputs) // (2 * self.num_views)
            images, mixed = torch.cat([images, inputs[:natural]]), len(images)
        feats = self.extract_feat(images)
        if self.clean_means:
            clean = feats[-1][mixed:], labels[:natural]
            feats = tuple(f[:mixed] for f in feats)
        return self.head.loss(feats, data_samples, num_views=self.num_views, soft_labels=soft_labels, clean=clean)
