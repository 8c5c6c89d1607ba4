import torch
from mmengine.hooks import Hook

from ...distributed import unwrap
from ...registry import HOOKS


@HOOKS.register_module()
class MaxNormHook(Hook):
    """Keep every classifier vector within a ball: MaxNorm, after each step of the optimizer.

    `Long-Tailed Recognition via Weight Balancing <https://arxiv.org/abs/2203.14197>`_ (Alshammari et al., CVPR 2022):
    the classifier vectors of frequent classes grow long and win; a projection onto ``|w_k| <= max_norm`` evens the
    lengths, where weight decay alone makes all of them shorter.

    Args:
        max_norm (float): Radius of the ball. Defaults to 1.
        layer (str): Name of the linear layer in the model. Defaults to 'head.fc'.

    Raises:
        ValueError: for a radius that is not positive, or if the model has no such layer.
    """

    def __init__(self, max_norm: float = 1.0, layer: str = 'head.fc') -> None:
        if not max_norm > 0:
            raise ValueError(f'Expected `max_norm` > 0, but got {max_norm}.')
        self.max_norm, self.layer = max_norm, layer

    def before_train(self, runner) -> None:
        """Find the layer."""
        model = unwrap(runner.model)
        linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        if self.layer not in linear:
            raise ValueError(f'MaxNormHook found no linear layer {self.layer!r} in {type(model).__name__}; set `layer` '
                             f'to one of {sorted(linear)}.')
        self.weight = linear[self.layer].weight

    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Project."""
        self.weight.copy_(self.weight.renorm(2, 0, self.max_norm))
