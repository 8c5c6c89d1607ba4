import logging

import numpy as np
from mmengine.hooks import Hook
from mmengine.logging import print_log

from ...distributed import unwrap
from ...functional.reweighting import CLASS_WEIGHT_SCHEMES, class_weights
from ...registry import HOOKS
from ..datasets.pixel_counts import pixel_counts, set_num_per_class
from ..losses.branch_loss import BranchLoss


@HOOKS.register_module()
class SegClassWeightsHook(Hook):
    """Class weights computed from the training label maps, for every loss that has ``class_weight``.

    One line in the config, with a stock segmentor too; it works with mmseg's CrossEntropyLoss, FocalLoss, LovaszLoss,
    TverskyLoss, OhemCrossEntropy and with the losses of allnc_mm (DiceLoss, which has no class weights, is left alone).
    The formulas are those of :func:`allnc_mm.functional.class_weights`: the average training pixel keeps the weight 1.
    In a model with two branches (``AllNCSegmentor(loss_rebalanced=...)``) the second branch alone gets them, and with
    :class:`RareClassSampler` from the shares of the pixels in what that branch sees.

    .. code-block:: python

        custom_hooks = [dict(type='SegClassWeightsHook')]

    Args:
        scheme (str): 'inverse' (power of the share), 'median' (median frequency balancing) or 'log' (ENet). Defaults
            to 'inverse'.
        power (float): Of 'inverse'; 1 makes all classes equal. Defaults to 0.5.
    """

    priority = 'NORMAL'

    def __init__(self, scheme: str = 'inverse', power: float = 0.5) -> None:
        if scheme not in CLASS_WEIGHT_SCHEMES:
            raise ValueError(f'Expected `scheme` of SegClassWeightsHook to be one of {CLASS_WEIGHT_SCHEMES}, but got '
                             f'{scheme!r}.')
        self.scheme, self.power = scheme, power

    def before_train(self, runner) -> None:
        """Compute the weights and set them."""
        model = unwrap(runner.model)
        branches = [m for m in model.modules() if isinstance(m, BranchLoss) and m.rebalanced]
        scope = branches or [model]
        losses = {id(m): m for part in scope for m in part.modules() if hasattr(m, 'class_weight')}.values()
        if not losses:
            raise ValueError(f'SegClassWeightsHook found no loss with `class_weight` in {type(model).__name__}; use '
                             'CrossEntropyLoss, FocalLoss, LovaszLoss, ... or remove the hook.')
        by_hand = [type(m).__name__ for m in losses if m.class_weight is not None]
        if by_hand:
            raise ValueError(f'class_weight of {", ".join(by_hand)} is set in the config, and SegClassWeightsHook '
                             'would set it too; remove one of the two.')
        broken = [type(m).__name__ for m in losses if type(m).__name__ == 'HuasdorffDisstanceLoss' or
                  (type(m).__name__ == 'CrossEntropyLoss' and m.use_sigmoid)]
        if broken:  # the one compares them with a number; the other spreads them along the width of the image
            raise ValueError(f"mmseg's {broken[0]}{'(use_sigmoid=True)' * (broken[0] == 'CrossEntropyLoss')} does not "
                             'take class weights of pixels; use another loss, or remove SegClassWeightsHook.')
        weights = self._weights(runner, model)
        for loss in losses:
            if hasattr(loss, 'set_class_weight'):
                loss.set_class_weight(weights)
            else:
                loss.class_weight = weights
        names = runner.train_dataloader.dataset.metainfo.get('classes', range(len(weights)))
        print_log('Class weights of ' + ', '.join(sorted({type(m).__name__ for m in losses})) + ': ' +
                  ', '.join(f'{name} {weight:.3g}' for name, weight in zip(names, weights)),
                  logger='current', level=logging.INFO)

    def _weights(self, runner, model) -> list[float]:
        dataset = runner.train_dataloader.dataset
        shares, frequency = np.asarray(set_num_per_class(dataset), dtype=np.float64), None
        if getattr(model, 'bilateral', False):  # what the sampler did is not done twice
            _, shares = model.branch_priors(shares / shares.sum(), runner.train_dataloader.batch_sampler.prior)
        elif self.scheme == 'median':
            counts = pixel_counts(dataset).astype(np.float64)
            with np.errstate(invalid='ignore', divide='ignore'):
                frequency = counts.sum(0) / ((counts > 0) * counts.sum(1, keepdims=True)).sum(0)
        return class_weights(shares, self.scheme, power=self.power, frequency=frequency).tolist()
