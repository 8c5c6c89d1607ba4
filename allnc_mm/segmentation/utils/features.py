from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch.nn as nn
from torch import Tensor

from ..heads.fixed_classifier import FixedClassifier


def last_head(model: nn.Module) -> nn.Module:
    """The decode head that predicts: of a segmentor, of a cascade its last one; a head is returned as it is.

    Raises:
        ValueError: for a head without ``conv_seg``, whose prediction is not one linear map of a pixel's feature.
    """
    head = getattr(model, 'decode_head', model)
    if isinstance(head, nn.ModuleList):
        head = head[-1]
    if not hasattr(head, 'conv_seg'):
        raise ValueError(f'{type(head).__name__} has no `conv_seg`: it does not classify pixels by one linear map, '
                         'so it has no classifier vectors and no features in the sense of neural collapse. Use a head '
                         'such as FCNHead, PSPHead, ASPPHead, OCRHead, UPerHead, SegformerHead.')
    return head


def classifier_weight(model: nn.Module) -> Tensor:
    """Classifier vectors (K, d) of the predicting decode head of a segmentor (or of a head)."""
    conv = last_head(model).conv_seg
    return conv.classifier_weight if isinstance(conv, FixedClassifier) else conv.weight.flatten(1)


@contextmanager
def capture_features(model: nn.Module) -> Iterator[SimpleNamespace]:
    """Within the block, keep what the classifier of the predicting decode head reads, for any ``BaseDecodeHead``.

    The features are those before the head's dropout; of a :class:`FixedClassifier` with a normalisation layer, those
    after that layer. Outside the block nothing is hooked, so inference costs what it always did.

    Args:
        model (nn.Module): A segmentor (stock or ours), or a decode head.

    Yields:
        SimpleNamespace: ``features`` is (N, d, h, w) of the last forward pass within the block, or None before one.

    Example:
        >>> with capture_features(model) as captured:  # doctest: +SKIP
        ...     losses = model.loss(inputs, data_samples)
        >>> captured.features.shape  # doctest: +SKIP
        torch.Size([2, 64, 32, 32])
    """
    head = last_head(model)
    captured = SimpleNamespace(features=None)

    def keep_input(module, args):
        captured.features = args[0]

    def keep_output(module, args, output):
        captured.features = output

    norm = getattr(head.conv_seg, 'norm', None)
    if norm is not None:
        handle = norm.register_forward_hook(keep_output)
    else:
        handle = (head.dropout or head.conv_seg).register_forward_pre_hook(keep_input)
    try:
        yield captured
    finally:
        handle.remove()
