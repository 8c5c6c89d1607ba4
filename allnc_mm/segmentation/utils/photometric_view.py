import torch
from mmengine.model import BaseModule
from torch import Tensor

from ...registry import MODELS


@MODELS.register_module()
class PhotometricView(BaseModule):
    r"""A second view of a crop that differs in colour alone, so that every pixel keeps its place and its label.

    It works on the normalised batch, on its device, so any pipeline and data preprocessor will do. With x an image, m
    its mean, g its mean over the channels and u uniform in [-1, 1], drawn for each image (b for each channel as well),

    .. math::
        x' = m + (1 + c u_1) (x - m) + b u_2, \qquad x'' = x' + s u_3 (x' - g')

    Args:
        brightness (float): b, in units of the normalised image. Defaults to 0.4.
        contrast (float): c in [0, 1). Defaults to 0.4.
        saturation (float): s in [0, 1). Defaults to 0.4.

    Raises:
        ValueError: for a strength out of range.
    """

    def __init__(self, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4) -> None:
        super().__init__()
        for name, value, most in (('brightness', brightness, float('inf')), ('contrast', contrast, 1),
                                  ('saturation', saturation, 1)):
            if not 0 <= value < most:
                raise ValueError(f'Expected `{name}` of PhotometricView in [0, {most}), but got {value}.')
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation

    def forward(self, inputs: Tensor) -> Tensor:
        """Another view of normalised images (N, C, H, W)."""
        def noise(channels: int) -> Tensor:
            return torch.rand(len(inputs), channels, 1, 1, device=inputs.device) * 2 - 1

        mean = inputs.mean((1, 2, 3), keepdim=True)
        view = mean + (1 + self.contrast * noise(1)) * (inputs - mean) + self.brightness * noise(inputs.shape[1])
        return view + self.saturation * noise(1) * (view - view.mean(1, keepdim=True))
