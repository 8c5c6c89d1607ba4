import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from .cosine_head import CosineHead


class CodeHead(CosineHead):
    """Base of the heads with a fixed code, :class:`ETFHead` and :class:`SoftmaxCodeHead`; not registered.

    Logits are ``length * cos(feature, code)``. The code is a buffer: it is saved, restored, and never trained.

    Args:
        num_classes (int): Number of classes K.
        in_channels (int): Feature dimension d.
        loss (dict, optional): A loss on features and codes (one with ``needs_codes = True``, such as ``DRLoss``), or
            any classification loss on logits, such as ``dict(type='CrossEntropyLoss')``. Defaults to None, that is
            ``dict(type='DRLoss')``.
        length (float): Scale of the logits. At 16 the cross-entropy of a perfectly collapsed feature is below 1e-3
            for every K up to 8,142; predicted labels do not depend on it. Defaults to 16.0.
        learnable_length (bool): Whether the scale is learned; it stays positive. Only for a loss on logits, the
            others do not see it. Defaults to False.
        rotation (bool): Whether to learn an orthogonal d x d rotation of the whole code, started at the identity. It
            costs one matrix exponential of that size a step. Defaults to False.
        assignment (Sequence[int], optional): Which row of the code each class gets, a permutation of 0..K-1. Defaults
            to None: class k gets row k.
        norm_cfg (dict, optional): Normalisation layer on the features, before their L2 normalisation. Defaults to
            None: no layer.
        seed (int): Seed of the code. Defaults to 0.
        **kwargs: ``topk``, ``cal_acc`` and ``init_cfg`` of :class:`CosineHead`.

    Raises:
        ValueError: for K and d without such a code, a length that is not positive, an assignment that is no
            permutation, ``learnable_length`` with a loss that does not see it, and on loading a checkpoint whose code
            has another shape.
    """

    vectors = 'code'
    repels = True

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 loss: dict | nn.Module | None = None,
                 length: float = 16.0,
                 learnable_length: bool = False,
                 rotation: bool = False,
                 assignment: Sequence[int] | None = None,
                 norm_cfg: dict | None = None,
                 seed: int = 0,
                 **kwargs):
        super().__init__(num_classes, in_channels, loss=loss or dict(type='DRLoss'), norm_cfg=norm_cfg,
                         learnable_scale='learnable_length' if learnable_length else None, **kwargs)
        name = type(self).__name__
        try:
            code = self.build_code(num_classes, in_channels, seed).float()
        except ValueError as error:
            raise ValueError(f'{name}(num_classes={num_classes}, in_channels={in_channels}): {error}') from error
        if not 0 < length < math.inf:
            raise ValueError(f'Expected argument `length` of {name} to be positive, but got {length}.')
        if assignment is not None:
            if sorted(assignment) != list(range(num_classes)):
                raise ValueError(f'Expected `assignment` of {name} to hold each of 0..{num_classes - 1} once, but got '
                                 f'{list(assignment)}; give the row of the code for each class.')
            code = code[torch.as_tensor(assignment)]
        self.register_buffer('code', code)
        if learnable_length:
            self.log_length = nn.Parameter(torch.tensor(math.log(length)))
        else:
            self.length = length
        self.learnable_length = learnable_length
        self.rotation = None
        if rotation:
            linear = nn.Linear(in_channels, in_channels, bias=False)
            nn.init.eye_(linear.weight)
            self.rotation = orthogonal(linear)

    @abstractmethod
    def build_code(self, num_classes: int, dim: int, seed: int) -> Tensor:
        """The code, unit rows of shape (K, d); a ValueError where there is none."""

    @property
    def scale(self) -> float | Tensor:
        """float | Tensor: Length of the code vectors as the logits see them."""
        return self.log_length.exp() if self.learnable_length else self.length

    @property
    def classifier_weight(self) -> Tensor:
        """Tensor: Unit classifier vectors (K, d), the code after its rotation."""
        if self.rotation is None:
            return self.code
        with torch.autocast(self.code.device.type, enabled=False):
            return self.rotation(self.code)
