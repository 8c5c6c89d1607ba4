from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper

from ..registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """An ``OptimWrapper`` whose forward pass runs under bfloat16 autocast, on CPU as on CUDA.

    bfloat16 has the exponent range of float32, so no loss scaling is needed; parameters, gradients and the optimizer's
    state stay float32. mmengine's ``AmpOptimWrapper`` refuses to run without an accelerator.

    Args:
        **kwargs: Arguments of :class:`mmengine.optim.OptimWrapper` (``optimizer``, ``clip_grad``,
            ``accumulative_counts``).

    Example in a config::

        optim_wrapper = dict(type='BFloat16OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
    """

    @contextmanager
    def optim_context(self, model: torch.nn.Module):
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device_type=device, dtype=torch.bfloat16):
            yield
