"""Whole-batch views of tensors that are spread over ranks; each is the identity without a process group.

A loss over class means or pairs of samples means the batch of *all* ranks. Each rank gathers the whole batch and
computes the same loss from it. The gradient of the gather sums what all ranks send back, which is R times the gradient
of the rank's own rows; DistributedDataParallel then averages over the R ranks. The two factors cancel, so R ranks with
N/R samples each give values and gradients of one process with N; parameters that enter the loss directly (a classifier
vector) get the same gradient on each rank, whose average is that gradient. No other factor appears anywhere.
"""
import torch
import torch.distributed as dist
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

__all__ = ['gather', 'gather_views', 'unwrap', 'world_size']


def unwrap(model: nn.Module) -> nn.Module:
    """The model in mmengine's wrapper for distributed training, or the model itself."""
    return model.module if is_model_wrapper(model) else model


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x):
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[dist.get_rank()]


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks, in rank order.

    Args:
        x (Tensor): Shape (N, ...), the same on each rank. The training samplers of mmengine give equal sizes.

    Returns:
        Tensor: Shape (R*N, ...). Differentiable when x is floating.
    """
    return gather_views(x, 1)


def gather_views(x: Tensor, num_views: int) -> Tensor:
    """Rows of all ranks for a view-major batch: (V*M, ...) on each rank becomes (V*R*M, ...), view-major again."""
    if world_size() == 1:
        return x
    parts = _Gather.apply(x)  # (R, V*M, ...)
    return parts.unflatten(1, (num_views, -1)).transpose(0, 1).flatten(0, 2)
