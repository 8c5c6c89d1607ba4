from mmengine.hooks import Hook

from ...distributed import unwrap
from ...registry import HOOKS


@HOOKS.register_module()
class AttachMetricsHook(Hook):
    """Hand the model to every metric that has ``attach`` (:class:`PixelCollapseMetric`), before an evaluation.

    An evaluator of mmengine sees predictions only. Nothing is recorded outside of validation and test. What a metric
    refuses in a model is refused before the training.
    """

    def before_train(self, runner) -> None:
        """Let the metrics of the validation check the model."""
        if runner.val_loop is not None:
            self._attach(runner, runner.val_evaluator)
            for metric in runner.val_evaluator.metrics:
                if hasattr(metric, 'detach'):
                    metric.detach()

    def before_val(self, runner) -> None:
        """Attach the metrics of the validation."""
        self._attach(runner, runner.val_evaluator)

    def before_test(self, runner) -> None:
        """Attach the metrics of the test."""
        self._attach(runner, runner.test_evaluator)

    @staticmethod
    def _attach(runner, evaluator) -> None:
        model = unwrap(runner.model)
        for metric in evaluator.metrics:
            if hasattr(metric, 'attach'):
                metric.attach(model)
