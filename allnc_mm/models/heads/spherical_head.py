import math

import torch
from torch import Tensor, nn

from ...functional.geometry import unit_rows
from ...registry import MODELS
from .cosine_head import CosineHead


@MODELS.register_module()
class SphericalHead(CosineHead):
    r"""Cosine classifier: features and learned classifier vectors on the unit sphere, and a temperature.

    The training of `Generalized Neural Collapse for a Large Number of Classes <https://arxiv.org/abs/2310.05351>`_
    (Jiang et al., ICML 2024): with cross-entropy and a small temperature tau, features and classifier vectors go to a
    softmax code, the arrangement with the largest one-vs-rest distance.

    .. math:: f_k(h) = \frac{1}{\tau} \Big\langle \frac{w_k}{|w_k|}, \frac{h}{|h|} \Big\rangle

    Weight decay on the vectors changes their effective step alone; on a learned temperature it pulls towards the
    geometric mean of the bounds.

    Args:
        num_classes (int): Number of classes K.
        in_channels (int): Feature dimension d; any, also with K > d + 1.
        loss (dict, optional): As in :class:`CosineHead`. Defaults to None, that is ``dict(type='CrossEntropyLoss')``.
        temperature (float): tau, or where its learning starts. Defaults to 0.1.
        learnable_temperature (bool): Whether tau is learned, within ``temperature_range``. Defaults to False.
        temperature_range (tuple[float, float]): Open interval in which a learned tau stays: its logarithm is a sigmoid
            between the bounds. Defaults to (0.01, 1.0).
        **kwargs: ``norm_cfg``, ``topk``, ``cal_acc`` and ``init_cfg`` of :class:`CosineHead`.

    Raises:
        ValueError: for a temperature that is not positive or, if learned, not within its range; and as in
            :class:`CosineHead`.
    """

    vectors = 'weight'

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 loss: dict | nn.Module | None = None,
                 temperature: float = 0.1,
                 learnable_temperature: bool = False,
                 temperature_range: tuple[float, float] = (0.01, 1.0),
                 **kwargs):
        super().__init__(num_classes, in_channels, loss=loss or dict(type='CrossEntropyLoss'),
                         learnable_scale='learnable_temperature' if learnable_temperature else None, **kwargs)
        name = type(self).__name__
        if not 0 < temperature < math.inf:
            raise ValueError(f'Expected argument `temperature` of {name} to be positive, but got {temperature}; 0.1 is '
                             'usual.')
        self.learnable_temperature = learnable_temperature
        if learnable_temperature:
            low, high = temperature_range
            if not 0 < low < temperature < high < math.inf:
                raise ValueError(f'{name}(learnable_temperature=True) needs 0 < low < temperature < high, but got '
                                 f'temperature={temperature} and temperature_range={tuple(temperature_range)}.')
            self.temperature_range = float(low), float(high)
            place = math.log(temperature / low) / math.log(high / low)
            self.temperature_logit = nn.Parameter(torch.tensor(math.log(place / (1 - place))))
        else:
            self.temperature = temperature
        self._build_vectors()

    def _build_vectors(self) -> None:
        self.weight = nn.Parameter(torch.randn(self.num_classes, self.in_channels) / self.in_channels ** 0.5)

    @property
    def scale(self) -> float | Tensor:
        """float | Tensor: 1 / tau."""
        if not self.learnable_temperature:
            return 1 / self.temperature
        low, high = self.temperature_range
        return (low / high) ** self.temperature_logit.sigmoid() / low

    @property
    def classifier_weight(self) -> Tensor:
        """Tensor: Unit classifier vectors (K, d)."""
        return unit_rows(self.weight.float())
