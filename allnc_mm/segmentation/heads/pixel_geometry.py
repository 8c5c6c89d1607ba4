import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from ...distributed import gather
from ...functional.losses import cosine_moments
from ...functional.pixels import gather_pixels, sample_pixels
from ...functional.prototypes import class_means
from ...models.utils.class_means import ClassMeans
from ...registry import MODELS


def whole_batch_means(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Class means of weighted rows on each rank, as rows with soft labels that stand for the batch of all ranks.

    Args:
        features (Tensor): (P, d) of this rank.
        weights (Tensor): (P, K), the weight with which a row counts for each class.

    Returns:
        tuple[Tensor, Tensor]: (R*K, d) and (R*K, K): their class means are those of all rows of all ranks, and no more
        than K rows of a rank were sent.
    """
    means, counts = class_means(features, weights, weights.shape[1])
    return gather(means), gather(counts.diag())


@MODELS.register_module()
class PixelGeometry(BaseModule):
    """HyCon and P2P with pixels as samples, for any decode head: training only.

    Of each class up to ``max_pixels`` labelled pixels of the rank's batch are drawn, and the decoder's feature is read
    there by bilinear interpolation, as the segmentation loss sees it. Cost and memory depend on K and ``max_pixels``,
    not on the image, and a class with few pixels has as many anchors as the road. Class means are those of the batch
    of all ranks (a drawn pixel counts for the pixels that it stands for) or their moving average, so that a class that
    is absent for many batches keeps its mean.

    Formulas: :func:`allnc_mm.functional.hycon_loss`, :func:`allnc_mm.functional.p2p_loss`.

    Args:
        num_classes (int): K; ``AllNCSegmentor`` fills it in.
        in_channels (int): d, dimension of the features; ``AllNCSegmentor`` fills it in.
        hycon (dict, optional): ``HyConLoss``. Its 'view' positives need ``AllNCSegmentor(view=...)``. Set
            ``class_balanced=True`` to weigh classes with few pixels like the others. Defaults to None, left out.
        p2p (dict, optional): ``P2PLoss``, on the features and the vectors of ``conv_seg``. Defaults to None.
        max_pixels (int): Cap for each class and rank. Defaults to 64.
        proj_channels (int, optional): Dimension of the MLP projector (one hidden layer of d) of HyCon. Defaults to
            None: none.
        predictor (bool): Whether HyCon has an MLP predictor as well. Defaults to False.
        momentum (float): Of the moving average of the class means; 0 takes them from the batch. Defaults to 0.9.
        ignore_index (int): Label of pixels without a class; ``AllNCSegmentor`` fills it in. Defaults to 255.
        align_corners (bool): Of the interpolation; ``AllNCSegmentor`` fills it in. Defaults to False.

    Raises:
        ValueError: for settings that contradict each other, or an ETF target with K > d + 1.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 hycon: dict | None = None,
                 p2p: dict | None = None,
                 max_pixels: int = 64,
                 proj_channels: int | None = None,
                 predictor: bool = False,
                 momentum: float = 0.9,
                 ignore_index: int = 255,
                 align_corners: bool = False) -> None:
        super().__init__()
        if hycon is None and p2p is None:
            raise ValueError('PixelGeometry needs `hycon`, `p2p` or both; without any, remove `geometry`.')
        if hycon is None and (proj_channels is not None or predictor):
            raise ValueError('`proj_channels` and `predictor` of PixelGeometry serve HyCon alone: give `hycon` or '
                             'remove them.')
        if max_pixels < 1:
            raise ValueError(f'Expected `max_pixels` of PixelGeometry to be positive, but got {max_pixels}; 64 is '
                             'usual.')
        target = None if p2p is None else p2p.get('target', 'etf')
        if target == 'etf' and num_classes > in_channels + 1:
            raise ValueError(f'PixelGeometry: a simplex ETF of K={num_classes} classes needs d >= {num_classes - 1}, '
                             f"but the head has channels={in_channels}; set p2p.target='softmax_code' or 'hinge', or "
                             'widen the head.')
        if target == 'softmax_code':
            p2p = dict(p2p, num_classes=num_classes, dim=in_channels)
        self.num_classes, self.max_pixels = num_classes, max_pixels
        self.ignore_index, self.align_corners = ignore_index, align_corners
        self.hycon = None if hycon is None else MODELS.build(hycon)
        self.p2p = None if p2p is None else MODELS.build(p2p)
        width = proj_channels or in_channels
        self.projector = nn.Identity() if proj_channels is None else _mlp(in_channels, in_channels, width)
        self.predictor = _mlp(width, width, width) if predictor else nn.Identity()
        if self.hycon is not None and self.hycon.needs_means:
            self.hycon_means = ClassMeans(num_classes, width, momentum)
        if self.p2p is not None and self.p2p.needs_means:
            self.p2p_means = ClassMeans(num_classes, in_channels, momentum)

    def forward(self, features: Tensor, labels: Tensor, weight: Tensor, num_views: int = 1) -> dict[str, Tensor]:
        """Losses of this rank's batch.

        Args:
            features (Tensor): (V*N, d, h, w), view-major.
            labels (Tensor): (N, H, W), the same for all views.
            weight (Tensor): Classifier vectors (K, d).
            num_views (int): V. Defaults to 1.

        Returns:
            dict[str, Tensor]: ``loss_hycon``, ``loss_p2p``, and monitors without ``loss`` in their name.
        """
        losses = {}
        with torch.autocast(features.device.type, enabled=False):
            position, one_hot, share = sample_pixels(labels, self.num_classes, self.max_pixels, self.ignore_index)
            z = torch.cat([gather_pixels(view, position, labels.shape[1:], self.align_corners)
                           for view in features.chunk(num_views)])
            one_hot = one_hot.repeat(num_views, 1)
            weighted = one_hot * share.repeat(num_views)[:, None]
            if self.hycon is not None:
                losses['loss_hycon'] = self._hycon(z, one_hot, weighted, num_views)
            if self.p2p is not None:
                means = present = None
                if self.p2p.needs_means:
                    means, present = self.p2p_means(*whole_batch_means(z, weighted))
                    with torch.no_grad():
                        _, losses['std_cos_means'] = cosine_moments(means, present)
                losses['loss_p2p'] = self.p2p(means, weight.float(), present)
        return losses

    def _hycon(self, z: Tensor, one_hot: Tensor, weighted: Tensor, num_views: int) -> Tensor:
        g = self.projector(z)
        p = self.predictor(g)
        means = present = None
        if hasattr(self, 'hycon_means'):  # means of directions: HyCon knows no length
            means, present = self.hycon_means(*whole_batch_means(F.normalize(g, dim=1), weighted))
        return self.hycon(p, g, one_hot, means, present, num_classes=self.num_classes, num_views=num_views)


def _mlp(in_channels: int, hidden: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out_channels))
