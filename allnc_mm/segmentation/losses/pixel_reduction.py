from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor


class PixelLoss(nn.Module):
    """What the pixel losses share: labels to ignore, class weights and the mean; without waiting for the device.

    The mean is over the labelled pixels, weighted by the class weights (as PyTorch's weighted cross-entropy); of a
    batch without any it is 0.
    """

    def init_pixels(self, class_weight: Sequence[float] | None, loss_name: str) -> None:
        """Set up; not in ``__init__``, which has other arguments in every class."""
        self._loss_name = loss_name
        # It follows from the config or the data: neither in the state_dict nor a buffer, whose shape EMAHook takes for
        # final.
        self.class_weight: Tensor | None = None
        if class_weight is not None:
            self.set_class_weight(class_weight)

    @property
    def loss_name(self) -> str:
        """Name in the log."""
        return self._loss_name

    def set_class_weight(self, class_weight: Sequence[float]) -> None:
        """Set the weights (K,) of the classes; :class:`SegClassWeightsHook` does so."""
        self.class_weight = torch.as_tensor(class_weight, dtype=torch.float32)

    def labelled(self, label: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
        """Labels with a class in place of none (0), and which pixels have one."""
        valid = (label >= 0) & (label < num_classes) & (label != ignore_index)
        return torch.where(valid, label, 0), valid

    def average(self, loss: Tensor, label: Tensor, valid: Tensor, weight: Tensor | None,
                reduction_override: str | None = None) -> Tensor:
        """Mean of losses (N, H, W) over the valid pixels; ``weight`` multiplies each of them.

        With ``reduction_override='none'``, which mmseg's OHEMPixelSampler asks for, the losses themselves, weighted.
        """
        each = valid.to(loss.dtype)
        if self.class_weight is not None:
            if self.class_weight.device != loss.device:
                self.class_weight = self.class_weight.to(loss.device)
            each = each * self.class_weight[label]
        loss = loss * each if weight is None else loss * each * weight.float()
        return loss if reduction_override == 'none' else loss.sum() / each.sum().clamp_min(1e-12)
