"""Workarounds for mmseg, as :mod:`allnc_mm.compat` has for the rest: reason, condition, one function each."""
import functools

import torch


def weighted_cross_entropy() -> None:
    """Let mmseg's ``CrossEntropyLoss`` have class weights, ignored pixels and half precision at once.

    To average the loss, mmsegmentation 1.2.2 looks up the weight of each pixel by its label, but the label to ignore
    (255) is no class: ``IndexError: index 255 is out of bounds``. onedl-mmsegmentation 1.4.2 leaves those pixels out,
    but fails with ``avg_non_ignore=True``: ``too many indices``. Here the loss is given what both mean: the sum of the
    weights of the labelled pixels, in float32: in float16 a batch of more than 65504 pixels sums to infinity, and the
    loss to zero. Off where all of it works.
    """
    import mmseg.models.losses.cross_entropy_loss as module
    original = module.cross_entropy
    nothing = dict(class_weight=torch.ones(1), ignore_index=255)
    try:
        for avg_non_ignore in (False, True):
            original(torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1), 255), avg_non_ignore=avg_non_ignore, **nothing)
        many = torch.zeros(1, 65536, 1, dtype=torch.int64)
        if original(torch.zeros(1, 2, 65536, 1).half(), many, class_weight=torch.ones(2).half()) > 0:
            return
    except (IndexError, RuntimeError):  # the latter where torch has no float16 on CPUs
        pass

    @functools.wraps(original)
    def cross_entropy(pred, label, weight=None, class_weight=None, reduction='mean', avg_factor=None,
                      ignore_index=-100, **kwargs):
        if class_weight is not None:
            pred, class_weight = pred.float(), class_weight.float()
            if avg_factor is None and reduction == 'mean':
                labelled = label != ignore_index
                avg_factor = (class_weight[torch.where(labelled, label, 0)] * labelled).sum()
        return original(pred, label, weight, class_weight, reduction, avg_factor, ignore_index, **kwargs)

    module.cross_entropy = cross_entropy


def apply() -> None:
    """Run the workarounds, before a loss is built."""
    weighted_cross_entropy()
