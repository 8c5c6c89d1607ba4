from ...distributed import unwrap
from ...engine.hooks.class_counts_hook import ClassCountsHook
from ...registry import HOOKS
from ..datasets.pixel_counts import set_num_per_class
from ..datasets.samplers import RareClassSampler
from .attach_metrics_hook import AttachMetricsHook


@HOOKS.register_module()
class PixelCountsHook(ClassCountsHook):
    """``ClassCountsHook`` for segmentation: the counts are the pixels of the classes in the training label maps.

    They are counted once and cached (:func:`pixel_counts`), unless the data set's metainfo has ``num_per_class``
    already. Labels out of range and missing label files are found here, before the first iteration, and a batch sampler
    that does not fit the model, and a metric of the validation that waits for :class:`AttachMetricsHook`.
    """

    def before_train(self, runner) -> None:
        """Count the pixels and hand the counts out."""
        model = unwrap(runner.model)
        sampler = runner.train_dataloader.batch_sampler
        given, needed = isinstance(sampler, RareClassSampler), getattr(model, 'bilateral', False)
        if given and not needed:
            raise ValueError('RareClassSampler yields [natural | rare-class] batches, but the model would take them as '
                             "one; set model.type='AllNCSegmentor', model.bilateral=True and model.loss_rebalanced, or "
                             'remove train_dataloader.batch_sampler.')
        if needed and not given:
            raise ValueError(f'model.bilateral=True needs [natural | rare-class] batches, but the batch sampler is '
                             f"{type(sampler).__name__}; set train_dataloader.batch_sampler=dict(type="
                             "'RareClassSampler'), or model.bilateral=False: every image then serves both branches.")
        if runner.val_loop is not None and not any(isinstance(hook, AttachMetricsHook) for hook in runner.hooks):
            waiting = [type(m).__name__ for m in runner.val_evaluator.metrics if hasattr(m, 'attach')]
            if waiting:
                raise ValueError(f'{waiting[0]} has no model; add default_hooks=dict(attach_metrics=dict('
                                 "type='AttachMetricsHook')).")
        set_num_per_class(runner.train_dataloader.dataset)
        super().before_train(runner)
