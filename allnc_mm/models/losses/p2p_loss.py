import torch
from mmengine.model import BaseModule
from torch import Tensor

from ...functional.losses import P2P_TARGETS, p2p_terms
from ...geometry_cache import cached_softmax_code
from ...registry import MODELS

TARGETS = (*P2P_TARGETS, 'softmax_code')


@MODELS.register_module()
class P2PLoss(BaseModule):
    """Peer-to-peer loss of AllNC: class means and classifier vectors at the optimal angles (NC2, NC3).

    `All-around Neural Collapse for Imbalanced Classification <https://arxiv.org/abs/2408.07253>`_ (TKDE 2025). The
    formula is :func:`allnc_mm.functional.p2p_loss`. The terms have separate weights because their prices differ: the
    classifier's Gram term is free in accuracy, forcing the means of mixed samples is not.

    Args:
        means_weight (float): Weight of the Gram term of the class means. Defaults to 1.
        classifier_weight (float): Weight of the Gram term of the classifier vectors. Defaults to 1.
        cross_weight (float): Weight of the term between means and classifier vectors. Defaults to 1.
        norm_weight (float): Weight of the equal-norm term of the classifier. Defaults to 0.
        target (str): 'etf'; or, for K > d + 1, 'hinge' (only too large cosines are punished) or 'softmax_code' (the
            cosines of a fixed softmax code, see :class:`SoftmaxCodeHead`; it is saved with the model). Defaults to
            'etf'.
        num_classes (int, optional): K, for 'softmax_code'; :class:`AllNCHead` gives its own. Defaults to None.
        dim (int, optional): d, for 'softmax_code'; :class:`AllNCHead` gives its own. Defaults to None.
        max_classes (int, optional): With more classes than that, each step takes that many, drawn anew on each rank,
            and the pairs among them: the expectation is that of all pairs (of the means, where all are present), and
            the products, which at thousands of classes cost as much as a part of the backbone, shrink with the square
            of max_classes. Defaults to None: all pairs.
        loss_weight (float): Factor of all terms. Defaults to 1.

    Raises:
        ValueError: for an unknown target, a negative weight, ``max_classes`` below 2, 'softmax_code' without K and d,
            and on loading a checkpoint whose code has another shape.
    """

    def __init__(self,
                 means_weight: float = 1.0,
                 classifier_weight: float = 1.0,
                 cross_weight: float = 1.0,
                 norm_weight: float = 0.0,
                 target: str = 'etf',
                 num_classes: int | None = None,
                 dim: int | None = None,
                 max_classes: int | None = None,
                 loss_weight: float = 1.0) -> None:
        super().__init__()
        if target not in TARGETS:
            raise ValueError(f'Expected `target` to be one of {TARGETS}, but got {target!r}.')
        self.weights = dict(means=means_weight, classifier=classifier_weight, cross=cross_weight, norm=norm_weight)
        negative = {k: v for k, v in self.weights.items() if v < 0}
        if negative:
            raise ValueError(f'Expected weights >= 0, but got {negative}.')
        if max_classes is not None and max_classes < 2:
            raise ValueError(f'Expected `max_classes` of at least 2 or None, but got {max_classes}.')
        self.target, self.max_classes, self.loss_weight = target, max_classes, loss_weight
        code = None
        if target == 'softmax_code':
            if num_classes is None or dim is None:
                raise ValueError(f"P2PLoss(target='softmax_code') needs `num_classes` and `dim`, but got {num_classes} "
                                 f'and {dim}; AllNCHead gives its own.')
            code = cached_softmax_code(num_classes, dim).float()
        self.register_buffer('code', code)  # saved: a resumed run goes on with the same code

    @property
    def needs_means(self) -> bool:
        """Whether any active term reads the class means."""
        return bool(self.weights['means'] or self.weights['cross'])

    def forward(self, means: Tensor | None, weight: Tensor, present: Tensor | None = None) -> Tensor:
        """Weighted sum of the active terms.

        Args:
            means (Tensor, optional): (K, d) class means of the batch of all ranks, or their moving average.
            weight (Tensor): (K, d) classifier vectors.
            present (Tensor, optional): bool (K,), which means exist.
        """
        sample = None
        if self.max_classes is not None and len(weight) > self.max_classes:
            sample = torch.randperm(len(weight), device=weight.device)[:self.max_classes]
        terms: dict[str, Tensor] = p2p_terms(means, weight, present=present,
                                             target=self.target if self.code is None else self.code,
                                             terms=[k for k, v in self.weights.items() if v], sample=sample)
        total = weight.sum() * 0.0 if not terms else sum(self.weights[k] * v for k, v in terms.items())
        return self.loss_weight * total

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # mmengine only warns about a mismatched shape: training would go on with another target than the checkpoint's.
        saved = state_dict.get(prefix + 'code')
        if saved is not None and self.code is not None and saved.shape != self.code.shape:
            raise ValueError(f'The checkpoint holds a softmax code {prefix + "code"!r} of shape (num_classes, dim) = '
                             f'{tuple(saved.shape)}, but this P2PLoss has {tuple(self.code.shape)}; set num_classes '
                             'and in_channels of the head to those of the checkpoint.')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
