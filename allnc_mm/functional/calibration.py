"""Calibration of a classifier's confidence, from bins that add up over batches and processes."""
import torch
from torch import Tensor

__all__ = ['calibration_bins', 'calibration_error']


def calibration_bins(confidence: Tensor, correct: Tensor, num_bins: int = 15, weight: Tensor | None = None) -> Tensor:
    r"""Sort predictions into equal-width bins of their confidence.

    The unit interval is cut into :math:`M` bins :math:`(\frac{m-1}{M}, \frac{m}{M}]`; the first one includes 0, as in
    `On Calibration of Modern Neural Networks <https://arxiv.org/abs/1706.04599>`_. The result is a sum over samples, so
    the bins of two batches, or of two processes, are added.

    Args:
        confidence (Tensor): Top-1 probability of each sample, shape (N,), any float type.
        correct (Tensor): Whether the prediction is right, shape (N,), bool or 0/1.
        num_bins (int): The number of bins M. Defaults to 15.
        weight (Tensor, optional): Non-negative weight of each sample, shape (N,); every sample counts 1 without it. A
            weight of ``1 / n[label]`` gives every class the same influence.

    Returns:
        Tensor: float64 of shape (3, M), which unpacks as ``count, correct, confidence``: the (weighted) number of
        samples, of right ones, and the sum of confidences in each bin.

    Raises:
        ValueError: if shapes differ, or a confidence is NaN or outside [0, 1].

    Example:
        >>> bins = calibration_bins(torch.tensor([.8, .8, .8, .8, .8]), torch.tensor([1, 1, 1, 1, 0]), num_bins=5)
        >>> bins[0].tolist()
        [0.0, 0.0, 0.0, 0.0, 5.0]
        >>> round(calibration_error(bins), 6)
        0.0
    """
    confidence = torch.as_tensor(confidence).to(torch.float64)
    correct = torch.as_tensor(correct, device=confidence.device).to(torch.float64)
    weight = torch.ones_like(confidence) if weight is None else torch.as_tensor(weight).to(confidence)
    if num_bins < 1:
        raise ValueError(f'num_bins must be a positive integer, but got {num_bins}.')
    if confidence.dim() != 1 or correct.shape != confidence.shape or weight.shape != confidence.shape:
        raise ValueError('confidence, correct and weight must have the same shape (N,), but got '
                         f'{tuple(confidence.shape)}, {tuple(correct.shape)} and {tuple(weight.shape)}.')
    if not bool(((confidence >= 0) & (confidence <= 1)).all()):  # also catches NaN
        raise ValueError('confidence must lie in [0, 1] and not be NaN; take the softmax of the logits first.')

    # Edges as m / M, rounded once each, so that a confidence written as m / M is exactly on its edge.
    edges = torch.arange(num_bins + 1, dtype=torch.float64, device=confidence.device) / num_bins
    index = (torch.bucketize(confidence, edges) - 1).clamp_(min=0)
    bins = confidence.new_zeros(3, num_bins)
    return bins.index_add_(1, index, torch.stack([weight, weight * correct, weight * confidence]))


def calibration_error(bins: Tensor, norm: str = 'l1') -> float:
    r"""Expected or maximum calibration error of :func:`calibration_bins`.

    .. math::
        \text{ECE} = \sum_m \frac{|B_m|}{N} |\text{acc}_m - \text{conf}_m|, \qquad
        \text{MCE} = \max_{m: B_m \neq \emptyset} |\text{acc}_m - \text{conf}_m|

    Args:
        bins (Tensor): Output of :func:`calibration_bins`, or a sum of several, shape (3, M).
        norm (str): 'l1' for the expected, 'max' for the maximum error. Defaults to 'l1'.

    Returns:
        float: The error, a fraction in [0, 1]; NaN without any sample.

    Raises:
        ValueError: for another norm.

    Example:
        >>> bins = calibration_bins(torch.ones(4), torch.tensor([1, 0, 1, 0]))
        >>> calibration_error(bins), calibration_error(bins, norm='max')
        (0.5, 0.5)
    """
    if norm not in ('l1', 'max'):
        raise ValueError(f"norm must be 'l1' (expected error) or 'max' (maximum error), but got {norm!r}.")
    count, correct, confidence = bins.to(torch.float64)
    gap = (correct - confidence).abs()
    filled = count > 0
    if not bool(filled.any()):
        return float('nan')
    if norm == 'l1':
        return float(gap.sum() / count.sum())
    return float((gap[filled] / count[filled]).max())
