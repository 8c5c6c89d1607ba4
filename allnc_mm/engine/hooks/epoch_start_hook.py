from mmengine.hooks import Hook

from ...distributed import unwrap
from ...registry import HOOKS


@HOOKS.register_module()
class EpochStartHook(Hook):
    """Tell every module with ``start_epoch`` (such as :class:`ProCoLoss`) that an epoch begins.

    A resumed run begins with an epoch, too, and so do the states that its checkpoint restores.
    """

    def before_train_epoch(self, runner) -> None:
        """Call ``start_epoch``."""
        model = unwrap(runner.model)
        for module in model.modules():
            if hasattr(module, 'start_epoch'):
                module.start_epoch()
