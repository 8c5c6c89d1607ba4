from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.engine.hooks.precise_bn_hook import update_bn_stats
from torch.utils.data import DataLoader

from ...registry import HOOKS


@HOOKS.register_module()
class CleanBNHook(Hook):
    """Re-estimate the BatchNorm statistics on unmixed training images when the training ends.

    A network that is trained on mixtures and re-balanced draws sees neither at test time, but its running statistics
    are theirs. After the last epoch, before the checkpoint is written, the statistics are averaged anew over the
    training images with their pipeline, in natural frequencies and without mixture, by mmpretrain's
    ``update_bn_stats`` (`Wu and Johnson 2021 <https://arxiv.org/abs/2105.07576>`_), over all ranks. mmpretrain's own
    ``PreciseBNHook`` reads the training batches, which with ``BilateralSampler`` have no batch size.

    Args:
        num_samples (int): Images to average over, all ranks together; at most the data set. Defaults to 8192.
        batch_size (int): Images per rank in each forward pass. Defaults to 128.

    Raises:
        ValueError: for sizes below 1, or without an epoch-based training loop.
    """

    priority = 'ABOVE_NORMAL'  # before CheckpointHook

    def __init__(self, num_samples: int = 8192, batch_size: int = 128) -> None:
        if num_samples < 1 or batch_size < 1:
            raise ValueError(f'Expected `num_samples` and `batch_size` >= 1, but got {num_samples} and {batch_size}.')
        self.num_samples, self.batch_size = num_samples, batch_size

    def before_train(self, runner) -> None:
        """Check the loop before time is spent."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError('CleanBNHook acts after the last epoch, but the training loop is '
                             f'{type(runner.train_loop).__name__}; set train_cfg.by_epoch=True or remove the hook.')

    def after_train_epoch(self, runner) -> None:
        """Act after the last epoch."""
        if not self.is_last_train_epoch(runner):
            return
        loader = runner.train_dataloader
        sampler = DefaultSampler(loader.dataset, shuffle=True, seed=runner.seed)
        clean = DataLoader(loader.dataset, self.batch_size, sampler=sampler, collate_fn=loader.collate_fn)
        world_size = sampler.world_size
        update_bn_stats(runner.model, clean, max(self.num_samples, self.batch_size * world_size), logger=runner.logger)
