import math

import torch
import torch.nn as nn
from mmpretrain.models.heads import ClsHead
from mmpretrain.structures import DataSample
from torch import Tensor

from ...distributed import gather_views
from ...functional.geometry import unit_rows
from ...functional.losses import cosine_moments
from ...registry import MODELS
from ..utils.class_means import ClassMeans

PREDICT_HEADS = ('rebalanced', 'mean', 'uniform')


@MODELS.register_module()
class AllNCHead(ClsHead):
    r"""Head of All-around Neural Collapse: two classification losses and the geometry terms.

    `All-around Neural Collapse for Imbalanced Classification <https://arxiv.org/abs/2408.07253>`_ (TKDE 2025).

    .. math::
        L = \eta L_{uniform} + (1 - \eta) L_{rebalanced} + L_{HyCon} + L_{P2P}

    where eta goes from 1 to 0 over the training (GBBN, set by :class:`GBBNHook`). Inside a plain ``ImageClassifier``
    every sample serves both branches; the classifier :class:`AllNC` adds bilateral batches and mixture views. Projector
    and predictor exist for training only: inference is one linear map of the neck's output, or of its direction.

    Args:
        num_classes (int): K.
        in_channels (int): d, the dimension of the neck's output.
        loss_uniform (dict): Classification loss of branch 1. Defaults to plain cross-entropy.
        loss_rebalanced (dict): Classification loss of branch 2. Defaults to logit adjustment with tau = 1.
        share_classifier (bool): One classifier for both branches, or one each. Defaults to True.
        predict_head (str): Which classifier predicts when there are two: 'rebalanced', 'mean' (of the two linear maps)
            or 'uniform'. Defaults to 'rebalanced'.
        hycon (dict, optional): ``HyConLoss``. Defaults to None, left out.
        p2p (dict, optional): ``P2PLoss``, on the neck's output and the predicting branch's classifier. Defaults to
            None.
        projector (dict, optional): Neck z -> g of HyCon, for example mmpretrain's ``NonLinearNeck``; HyCon's class
            means are those of g. Defaults to None, g = z.
        predictor (dict, optional): Neck g -> p of HyCon. Defaults to None, p = g.
        proj_channels (int, optional): Dimension of g; needed with a projector. Defaults to None.
        momentum (float): Of the moving average of the class means; 0 takes them from the batch. Defaults to 0.9.
        temperature (float, optional): The logits are cosines over it, of features and classifier vectors without bias;
            1 / 30 as in LDAM. Defaults to None, a linear classifier.
        init_cfg (dict, optional): Defaults to None: linear layers ~ N(0, .01^2), with a temperature N(0, 1 / d), so
            that vectors whose length does not matter start with length 1.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 loss_uniform: dict = dict(type='LogitAdjustedLoss', tau=0.0),  # noqa: B006
                 loss_rebalanced: dict = dict(type='LogitAdjustedLoss', tau=1.0),  # noqa: B006
                 share_classifier: bool = True,
                 predict_head: str = 'rebalanced',
                 hycon: dict | None = None,
                 p2p: dict | None = None,
                 projector: dict | None = None,
                 predictor: dict | None = None,
                 proj_channels: int | None = None,
                 momentum: float = 0.9,
                 temperature: float | None = None,
                 init_cfg: dict | None = None) -> None:
        std = 0.01 if temperature is None else in_channels ** -0.5
        super().__init__(loss=loss_rebalanced, init_cfg=init_cfg or dict(type='Normal', layer='Linear', std=std))
        if num_classes < 2:
            raise ValueError(f'Expected `num_classes` >= 2, but got {num_classes}.')
        if predict_head not in PREDICT_HEADS:
            raise ValueError(f'Expected `predict_head` to be one of {PREDICT_HEADS}, but got {predict_head!r}.')
        if share_classifier and predict_head != 'rebalanced':
            raise ValueError(f'`predict_head={predict_head!r}` needs two classifiers: set share_classifier=False.')
        if temperature is not None and (isinstance(temperature, str) or not 0 < temperature < math.inf):
            raise ValueError(f'Expected `temperature` to be positive, but got {temperature!r}; 0.033 is usual, None is '
                             'a linear classifier.')
        if temperature is not None and predict_head == 'mean':
            raise ValueError("The mean of two cosine classifiers is none: set predict_head='rebalanced' or 'uniform', "
                             'or remove `temperature`.')
        if (projector is None) != (proj_channels is None):
            raise ValueError('`projector` and `proj_channels` (the dimension of its output) go together, but got '
                             f'projector={projector} and proj_channels={proj_channels}.')
        if hycon is None and (projector is not None or predictor is not None):
            raise ValueError('`projector` and `predictor` serve HyCon alone: give `hycon` or remove them.')
        if p2p is not None and p2p.get('target', 'etf') == 'etf' and num_classes > in_channels + 1:
            raise ValueError(f'A simplex ETF of K={num_classes} classes needs d >= {num_classes - 1}, but in_channels '
                             f"is {in_channels}; set p2p.target='hinge' or 'softmax_code', or widen the neck.")
        if p2p is not None and p2p.get('target') == 'softmax_code':
            p2p = dict(p2p, num_classes=num_classes, dim=in_channels)
        self.num_classes, self.in_channels = num_classes, in_channels
        self.predict_head, self.temperature = predict_head, temperature
        self.loss_uniform = MODELS.build(loss_uniform)
        self.fc = nn.Linear(in_channels, num_classes, bias=temperature is None)
        self.fc_uniform = None if share_classifier else nn.Linear(in_channels, num_classes, bias=temperature is None)
        self.hycon = None if hycon is None else MODELS.build(hycon)
        self.p2p = None if p2p is None else MODELS.build(p2p)
        self.projector = nn.Identity() if projector is None else MODELS.build(projector)
        self.predictor = nn.Identity() if predictor is None else MODELS.build(predictor)
        if self.hycon is not None and self.hycon.needs_means:
            self.hycon_means = ClassMeans(num_classes, proj_channels or in_channels, momentum)
        if self.p2p is not None and self.p2p.needs_means:
            self.p2p_means = ClassMeans(num_classes, in_channels, momentum)
        # It follows from the progress, so it is not saved; a tensor, so that a compiled step does not recompile.
        self.register_buffer('eta', torch.ones(()), persistent=False)

    def set_eta(self, eta: float) -> None:
        """Set the weight of the uniform branch; called by :class:`GBBNHook` before each iteration."""
        self.eta.fill_(eta)

    def pre_logits(self, feats: tuple[Tensor]) -> Tensor:
        """What the linear maps read, (N, d): the neck's output, with a temperature as unit rows in float32."""
        return feats[-1] if self.temperature is None else unit_rows(feats[-1].float())

    def _map(self, layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
        if self.temperature is None:
            return layer.weight, layer.bias
        return unit_rows(layer.weight) / self.temperature, None

    def predict_map(self) -> tuple[Tensor, Tensor | None]:
        """Weight (K, d) and bias (K,) of the one linear map that predicts; no bias with a temperature."""
        if self.predict_head == 'rebalanced':
            return self._map(self.fc)
        if self.predict_head == 'uniform':
            return self._map(self.fc_uniform)
        return (self.fc.weight + self.fc_uniform.weight) / 2, (self.fc.bias + self.fc_uniform.bias) / 2

    @property
    def classifier_weight(self) -> Tensor:
        """Classifier vectors that predict, shape (K, d)."""
        return self.predict_map()[0]

    def forward(self, feats: tuple[Tensor]) -> Tensor:
        """Logits (N, K) of the neck's output."""
        return nn.functional.linear(self.pre_logits(feats), *self.predict_map())

    def loss(self,
             feats: tuple[Tensor],
             data_samples: list[DataSample],
             num_views: int = 1,
             bilateral: bool = False,
             soft_labels: Tensor | None = None,
             clean: tuple[Tensor, Tensor] | None = None,
             **kwargs) -> dict[str, Tensor]:
        """Named losses of a view-major batch.

        Args:
            feats (Tuple[Tensor]): Output of the neck; the last entry is z, (V*M, d).
            data_samples (List[DataSample]): Of the V*M rows; ignored when ``soft_labels`` are given.
            num_views (int): V. Defaults to 1.
            bilateral (bool): Each view is [natural half | re-balanced half], one half for each branch. Defaults to
                False: every row serves both branches.
            soft_labels (Tensor, optional): (V*M, K) labels of mixture views.
            clean (Tuple[Tensor, Tensor], optional): Features (N, d) and labels of unmixed samples, from which the class
                means of P2P are taken. Defaults to None: from the rows themselves.

        Returns:
            Dict[str, Tensor]: the losses, and monitors without ``loss`` in their name, which mmengine logs only.

        Raises:
            ValueError: if z is not one row of ``in_channels`` numbers an image.
        """
        shape = getattr(feats[-1], 'shape', None)
        if shape is None or len(shape) != 2 or shape[1] != self.in_channels:
            found = type(feats[-1]).__name__ if shape is None else tuple(shape)
            raise ValueError(f'AllNCHead reads features of shape (N, in_channels={self.in_channels}), but the last '
                             f'output of backbone and neck is {found}; set in_channels, or a neck that pools: '
                             "neck=dict(type='GlobalAveragePooling').")
        if soft_labels is not None:
            labels = soft_labels
        elif 'gt_score' in data_samples[0]:
            labels = torch.stack([sample.gt_score for sample in data_samples])
        else:
            labels = torch.cat([sample.gt_label for sample in data_samples])
        # The backbone may run in any precision; from here on it is float32.
        with torch.autocast(feats[-1].device.type, enabled=False):
            z = self.pre_logits(feats).float()
            losses = self._classification(z, labels, num_views, bilateral)
            if self.hycon is not None:
                losses['loss_hycon'] = self._hycon(z, labels, num_views)
            if self.p2p is not None:
                source = (z, labels) if clean is None else (self.pre_logits(clean[:1]).float(), clean[1])
                losses['loss_p2p'] = self._p2p(*source, losses)
            with torch.no_grad():
                losses['gbbn_eta'] = self.eta.clone()  # mmengine's `eta` is the time left
                losses['cos_mean_w'], losses['std_cos_w'] = cosine_moments(self.classifier_weight)
        return losses

    def _classification(self, z: Tensor, labels: Tensor, num_views: int, bilateral: bool) -> dict[str, Tensor]:
        map_2 = self._map(self.fc)
        map_1 = map_2 if self.fc_uniform is None else self._map(self.fc_uniform)
        if bilateral:
            (z_1, z_2), (y_1, y_2) = (x.unflatten(0, (num_views, 2, -1)).unbind(1) for x in (z, labels))
            (z_1, y_1), (z_2, y_2) = ((a.flatten(0, 1), b.flatten(0, 1)) for a, b in ((z_1, y_1), (z_2, y_2)))
            logits_1, logits_2 = nn.functional.linear(z_1, *map_1), nn.functional.linear(z_2, *map_2)
        else:
            y_1 = y_2 = labels
            logits_2 = nn.functional.linear(z, *map_2)
            logits_1 = logits_2 if self.fc_uniform is None else nn.functional.linear(z, *map_1)
        return dict(loss_uniform=self.eta * self.loss_uniform(logits_1, y_1),
                    loss_rebalanced=(1 - self.eta) * self.loss_module(logits_2, y_2))

    def _hycon(self, z: Tensor, labels: Tensor, num_views: int) -> Tensor:
        g = _last(self.projector((z, ) if not isinstance(self.projector, nn.Identity) else z))
        p = _last(self.predictor((g, ) if not isinstance(self.predictor, nn.Identity) else g))
        means = present = None
        if hasattr(self, 'hycon_means'):
            directions = unit_rows(g)  # a mean of directions: HyCon knows no length
            means, present = self.hycon_means(gather_views(directions, num_views), gather_views(labels, num_views))
        return self.hycon(p, g, labels, means, present, num_classes=self.num_classes, num_views=num_views)

    def _p2p(self, z: Tensor, labels: Tensor, losses: dict[str, Tensor]) -> Tensor:
        means = present = None
        if self.p2p.needs_means:
            means, present = self.p2p_means(gather_views(z, 1), gather_views(labels, 1))
            with torch.no_grad():
                _, losses['std_cos_means'] = cosine_moments(means, present)
        return self.p2p(means, self.classifier_weight, present)


def _last(x):
    """mmpretrain's necks return tuples."""
    return x[-1] if isinstance(x, tuple) else x
