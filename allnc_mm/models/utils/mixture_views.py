import math
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.model import BaseModule
from mmpretrain.models.utils.batch_augments import CutMix
from torch import Tensor

from ...functional.prototypes import one_hot
from ...registry import MODELS


@MODELS.register_module()
class MixtureViews(BaseModule):
    """MixUp and CutMix of a natural sample and a partner sample, as in GLMC (Du et al., CVPR 2023).

    The batch of :class:`BilateralSampler` holds B natural and B partner samples; each view mixes the i-th of both. All
    views of a step share one mixture: the same pairs and the same share of the natural sample, so that they also share
    one soft label.

    Args:
        alpha (float): Share of the natural sample ~ Beta(alpha, alpha). Defaults to 1.
        methods (Sequence[str]): 'mixup', 'cutmix'. View v uses method v modulo their number; a batch with a single view
            draws its method. Defaults to ('mixup', 'cutmix').
    """

    def __init__(self, alpha: float = 1.0, methods: Sequence[str] = ('mixup', 'cutmix')) -> None:
        super().__init__()
        if not alpha > 0:
            raise ValueError(f'Expected `alpha` to be positive, but got {alpha}; 1 is uniform; remove `mixture` for '
                             'none.')
        if not methods or set(methods) - {'mixup', 'cutmix'}:
            raise ValueError(f"Expected `methods` among 'mixup' and 'cutmix', but got {methods}.")
        self.alpha, self.methods = alpha, tuple(methods)
        self.cutmix = CutMix(alpha)

    def natural_share(self, num_views: int) -> float:
        """Expected share of the natural sample: 1/2 for MixUp; more with CutMix, whose boxes the border clips.

        A box of relative side r has the clipped side r - r^2/4 in expectation, and r^2 ~ Beta(alpha, alpha).
        """
        a = self.alpha
        moment = [math.exp(math.lgamma(a + n) + math.lgamma(2 * a) - math.lgamma(a) - math.lgamma(2 * a + n))
                  for n in (1, 1.5, 2)]  # of r^2
        cutmix = 1 - (moment[0] - moment[1] / 2 + moment[2] / 16)
        if num_views > 1:  # one share for all views
            return cutmix if 'cutmix' in self.methods else 0.5
        return sum(cutmix if method == 'cutmix' else 0.5 for method in self.methods) / len(self.methods)

    @torch.compiler.disable  # its draws are numbers of the host: a compiler would take each for a constant
    def forward(self, inputs: Tensor, labels: Tensor, num_views: int, num_classes: int) -> tuple[Tensor, Tensor]:
        """Mix a bilateral batch.

        Args:
            inputs (Tensor): (V*2B, C, H, W), view-major, each view [B natural | B partner].
            labels (Tensor): (V*2B,) integers or (V*2B, K) soft.
            num_views (int): V.
            num_classes (int): K.

        Returns:
            Tuple[Tensor, Tensor]: images (V*B, C, H, W) and soft labels (V*B, K), view-major.
        """
        share = float(np.random.beta(self.alpha, self.alpha))
        methods = self.methods
        if num_views == 1:
            methods = (methods[np.random.randint(len(methods))], )
        if 'cutmix' in methods:
            (top, bottom, left, right), share = self.cutmix.cutmix_bbox_and_lam(inputs.shape[-2:], share)
        natural, partner = inputs.unflatten(0, (num_views, 2, -1)).unbind(1)
        views = []
        for v in range(num_views):
            if methods[v % len(methods)] == 'mixup':
                views.append(share * natural[v] + (1 - share) * partner[v])
            else:
                view = natural[v].clone()
                view[..., top:bottom, left:right] = partner[v][..., top:bottom, left:right]
                views.append(view)
        natural, partner = one_hot(labels, num_classes).unflatten(0, (num_views, 2, -1)).unbind(1)
        soft = share * natural + (1 - share) * partner
        return torch.cat(views), soft.flatten(0, 1)
