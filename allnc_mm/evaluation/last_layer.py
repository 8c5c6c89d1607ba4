"""The linear map at the end of a classifier, and the features that it reads."""
from mmpretrain.models.heads import ClsHead
from torch import Tensor, nn

from ..distributed import unwrap
from ..functional.geometry import unit_rows
from ..models.heads.cosine_head import CosineHead


def linear_map(head: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Classifier vectors (K, d) and bias (K,) of a head.

    In this order: its ``predict_map()``, those of the head that it wraps (``classifier``), its ``classifier_weight``,
    its ``fc``, its only linear layer with ``num_classes`` outputs. Vectors that the layer normalises are normalised.

    Raises:
        ValueError: if there is no such map, or not exactly one vector a class.
    """
    if hasattr(head, 'predict_map'):
        return head.predict_map()
    inner = getattr(head, 'classifier', None)
    if isinstance(inner, ClsHead):
        return linear_map(inner)
    weight = getattr(head, 'classifier_weight', None)
    if weight is not None:
        return (weight if isinstance(weight, Tensor) else weight()), None
    layer = getattr(head, 'fc', None)
    layer = getattr(layer, 'fc', layer)  # mmpretrain's LinearBlock
    if getattr(layer, 'weight', None) is None:
        layer = only_linear(head)
    weight = layer.weight
    if getattr(layer, 'weight_norm', False) is True:  # of mmpretrain's margin heads
        weight = unit_rows(weight)
    if weight.dim() != 2 or getattr(layer, 'k', 1) != 1:
        raise ValueError(f'{type(head).__name__} has no linear classifier to compare: its {type(layer).__name__} has '
                         f'weights of shape {tuple(weight.shape)}, not one vector a class.')
    return weight, getattr(layer, 'bias', None)


def only_linear(module: nn.Module) -> nn.Linear:
    """The only linear layer of a module that has ``num_classes`` outputs (any number, if it does not say).

    Raises:
        ValueError: if there is none, or more than one.
    """
    num_classes = getattr(module, 'num_classes', None)
    linear = [m for m in module.modules()
              if isinstance(m, nn.Linear) and (m.out_features == num_classes or num_classes is None)]
    if len(linear) != 1:
        raise ValueError(f'{type(module).__name__} has no linear classifier to compare: neither a `classifier_weight` '
                         '(K, d), nor an `fc`, nor exactly one nn.Linear with num_classes outputs.')
    return linear[0]


class LastLayer:
    """Watches the last layer of a classifier: its map, and the features that it reads in each forward pass.

    Features are the output of the head's ``pre_logits`` for what the head gets from the neck; for a linear head that
    is the neck's output. A hook keeps the head's input, so there is no second pass through backbone and neck. Models
    without such a head (mmpretrain's wrappers of timm and Hugging Face) are watched at their only linear layer.

    Args:
        model (nn.Module): A classifier, possibly wrapped for distributed training.

    Attributes:
        unit_features (bool): Whether the classifier sees the direction of the features alone, as cosine classifiers do.

    Raises:
        ValueError: for a model without a head and without exactly one linear layer.
    """

    def __init__(self, model: nn.Module) -> None:
        model = unwrap(model)
        head = getattr(model, 'head', None)
        self.head = head if hasattr(head, 'pre_logits') else None
        self._watched = only_linear(model) if self.head is None else self.head
        self.num_classes = getattr(head, 'num_classes', None)
        self.unit_features = any(
            isinstance(m, CosineHead) or getattr(m, 'feature_norm', False) is True for m in self._watched.modules())
        self._inputs: list = []
        self._handle = self._watched.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, args: tuple) -> None:
        self._inputs = [args[0]]

    def close(self) -> None:
        """Stop watching."""
        self._handle.remove()

    def linear_map(self) -> tuple[Tensor, Tensor | None]:
        """Classifier vectors (K, d) and bias (K,) as they are now.

        Raises:
            ValueError: if there are none.
        """
        if self.head is None:
            return self._watched.weight, self._watched.bias
        return linear_map(self.head)

    def features(self) -> Tensor:
        """Features (N, d) of the last forward pass, once; unit rows (but for zero rows) for a cosine classifier.

        Raises:
            ValueError: without a forward pass since the last call, or if the features are not one vector an image.
        """
        if not self._inputs:
            raise ValueError(f'The forward pass did not call the {type(self._watched).__name__} of the classifier, so '
                             'its features are unknown; only models whose `predict` calls their head can be measured.')
        features = self._inputs.pop()
        if self.head is not None:
            features = self.head.pre_logits(features)
        if not isinstance(features, Tensor) or features.dim() != 2:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f'The input of the classifier ({type(self._watched).__name__}) has shape {shape}, but one '
                             'vector an image is needed; add a neck such as GlobalAveragePooling.')
        features = features.detach()
        return unit_rows(features.float()) if self.unit_features else features
