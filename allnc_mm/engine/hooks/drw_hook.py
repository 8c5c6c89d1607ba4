from mmengine.hooks import Hook

from ...distributed import unwrap
from ...registry import HOOKS


@HOOKS.register_module()
class DRWHook(Hook):
    """Deferred re-weighting: class weights are 1 until a share of the training is done.

    `Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss <https://arxiv.org/abs/1906.07413>`_: the
    first stage learns features from all samples alike, the second, at a lower learning rate, re-weights. Every module
    with ``set_reweighting`` (:class:`ReweightedLoss`) is switched. The switch follows from the iteration alone, so a
    resumed run is that of an uncut one.

    Args:
        start (float): Share of the iterations after which the weights apply. Defaults to 0.8: epoch 160 of 200.
    """

    priority = 'HIGH'  # after ClassCountsHook, which computes the weights

    def __init__(self, start: float = 0.8) -> None:
        if not 0 <= start < 1:
            raise ValueError(f'Expected `start` of DRWHook in [0, 1), but got {start}; 0.8 is epoch 160 of 200.')
        self.start = start
        self.targets: list = []
        self.active: bool | None = None

    def before_train(self, runner) -> None:
        """Find the losses."""
        model = unwrap(runner.model)
        self.targets = [module for module in model.modules() if hasattr(module, 'set_reweighting')]
        self.active = None
        if not self.targets:
            raise ValueError(f'DRWHook found no module with `set_reweighting` in {type(model).__name__}; set '
                             "head.loss=dict(type='ReweightedLoss', loss=...) (or remove the hook).")

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Switch the weights when it is time."""
        active = runner.iter / runner.max_iters >= self.start
        if active != self.active:
            self.active = active
            for module in self.targets:
                module.set_reweighting(active)
