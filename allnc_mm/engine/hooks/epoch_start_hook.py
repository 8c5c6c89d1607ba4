from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from ...distributed import unwrap
from ...registry import HOOKS


@HOOKS.register_module()
class EpochStartHook(Hook):
    """Tell every module with ``start_epoch`` (such as :class:`ProCoLoss`) that an epoch begins.

    A resumed run begins with an epoch, too, and so do the states that its checkpoint restores.
    """

    def before_train(self, runner) -> None:
        """Refuse a loop that has one epoch only."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError('EpochStartHook tells when an epoch begins, but the training loop is '
                             f'{type(runner.train_loop).__name__}; set train_cfg.by_epoch=True.')

    def before_train_epoch(self, runner) -> None:
        """Call ``start_epoch``."""
        model = unwrap(runner.model)
        for module in model.modules():
            if hasattr(module, 'start_epoch'):
                module.start_epoch()
