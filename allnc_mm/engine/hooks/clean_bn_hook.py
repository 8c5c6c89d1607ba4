import logging

from mmengine.dataset import DefaultSampler
from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.engine.hooks.precise_bn_hook import update_bn_stats
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from ...distributed import unwrap
from ...registry import HOOKS


@HOOKS.register_module()
class CleanBNHook(Hook):
    """Re-estimate the BatchNorm statistics on unmixed training images when the training ends.

    A network that is trained on mixtures and re-balanced draws sees neither at test time, but its running statistics
    are theirs. After the last epoch, before the checkpoint is written, the statistics are averaged anew over the
    training images with their pipeline, in natural frequencies and without mixture, by mmpretrain's
    ``update_bn_stats`` (`Wu and Johnson 2021 <https://arxiv.org/abs/2105.07576>`_), over all ranks. mmpretrain's own
    ``PreciseBNHook`` reads the training batches, which with ``BilateralSampler`` have no batch size. With ``EMAHook``
    the statistics are those of the moving average of the weights, which is what is validated and saved.

    Args:
        num_samples (int): Images to average over, all ranks together; at most the data set. Defaults to 8192.
        batch_size (int): Images per rank in each forward pass; a last one of less than half of it, which would count as
            much as the others, is left out. Defaults to 128.

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
        if any(isinstance(hook, EarlyStoppingHook) for hook in runner.hooks):
            print_log('CleanBNHook acts after the last epoch of train_cfg, which EarlyStoppingHook may not reach: the '
                      'statistics would stay those of the mixtures.', logger='current', level=logging.WARNING)

    def after_train_epoch(self, runner) -> None:
        """Act after the last epoch."""
        if not self.is_last_train_epoch(runner):
            return
        loader = runner.train_dataloader
        sampler = DefaultSampler(loader.dataset, shuffle=True, seed=runner.seed)
        short = len(sampler) > self.batch_size and len(sampler) % self.batch_size < self.batch_size / 2
        clean = DataLoader(loader.dataset, self.batch_size, sampler=sampler, collate_fn=loader.collate_fn,
                           drop_last=short)
        number = max(self.num_samples, self.batch_size * sampler.world_size)
        model = unwrap(runner.model)
        average = next((hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)), None)
        if average is None:
            update_bn_stats(model, clean, number, logger=runner.logger)
            return
        average.data_preprocessor = model.data_preprocessor  # DeviceAugmentationHook has put its own there
        average.train()
        update_bn_stats(average, clean, number, logger=runner.logger)
        for name, norm in average.named_modules():  # a validation may take the buffers of the model
            if isinstance(norm, _BatchNorm):
                source = model.get_submodule(name)
                source.running_mean, source.running_var = norm.running_mean.clone(), norm.running_var.clone()
