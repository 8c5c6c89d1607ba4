import logging

from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop
from torch.nn import BatchNorm1d

from ...datasets.samplers import BilateralSampler
from ...distributed import unwrap
from ...functional.schedules import gbbn_eta
from ...registry import HOOKS


@HOOKS.register_module()
class GBBNHook(Hook):
    r"""Generalised bilateral-branch training: move from the natural to the re-balanced branch.

    Before each iteration, every module with ``set_eta`` is given

    .. math::
        \eta = 1 - \mathrm{progress}^\gamma

    with progress the share of the iterations that is done; as it follows from the iteration alone, a resumed run sees
    the eta of an uncut one. Before training it checks that batch sampler, classifier and heads agree, and tells the
    losses which label distribution the sampler leaves, so that sampler and adjusted loss do not both remove the whole
    prior.

    Args:
        gamma (float): Positive exponent. Defaults to 2, the parabola of BBN.
    """

    priority = 'HIGH'  # after ClassCountsHook, whose counts the sampler's distribution overrides

    def __init__(self, gamma: float = 2.0) -> None:
        gbbn_eta(0.0, gamma)  # refuses a bad gamma when the config is read
        self.gamma = gamma
        self.targets: list | None = None
        self.sampler: BilateralSampler | None = None

    def before_train(self, runner) -> None:
        """Check the parts against each other and set the priors of the losses."""
        model = unwrap(runner.model)
        if any(isinstance(hook, EarlyStoppingHook) for hook in runner.hooks):
            print_log('EarlyStoppingHook may end the training before GBBNHook has moved it to the re-balanced branch: '
                      'eta follows the iterations of train_cfg. Remove it, or set a shorter training.',
                      logger='current', level=logging.WARNING)
        self.targets = [module for module in model.modules() if hasattr(module, 'set_eta')]
        if not self.targets:
            raise ValueError(f'GBBNHook found no module with `set_eta` in {type(model).__name__}; use AllNCHead (or '
                             'remove the hook).')
        sampler = getattr(runner.train_dataloader, 'batch_sampler', None)
        given, needed = isinstance(sampler, BilateralSampler), getattr(model, 'bilateral', False)
        if needed and not given:
            raise ValueError(f'{type(model).__name__} trains on bilateral batches, but train_dataloader.batch_sampler '
                             f"is {type(sampler).__name__}; set batch_sampler=dict(type='BilateralSampler', q=...).")
        if given and not needed:
            raise ValueError(f'BilateralSampler yields [natural | re-balanced] batches, but {type(model).__name__} '
                             "would take them as one; set model.type='AllNC' or remove the batch_sampler.")
        if given and sampler.progressive and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError('BilateralSampler(progressive=True) changes from epoch to epoch, but the training counts '
                             'iterations; set progressive=False or train_cfg.by_epoch=True.')
        self.sampler = sampler if given else None
        if given and getattr(model, 'mixture', None) is not None and model.num_views == 1 and not sampler.drop_last \
                and len(sampler.sampler) % sampler.batch_size == 1 \
                and any(isinstance(module, BatchNorm1d) for module in model.head.modules()):
            raise ValueError(f'The last batch of an epoch is one mixed image ({len(sampler.sampler)} images a rank, '
                             f'batch_size={sampler.batch_size}), which the batch norm of the head cannot normalise; '
                             'set train_dataloader.batch_sampler.drop_last=True, or another batch_size.')
        self._set_priors(model)

    def _set_priors(self, model) -> None:
        if self.sampler is not None and hasattr(model, 'set_sampling_priors'):
            natural = self.sampler.num_per_class / self.sampler.num_per_class.sum()
            model.set_sampling_priors(natural, self.sampler.prior)

    def before_train_epoch(self, runner) -> None:
        """Move a progressive sampler on, and the priors of the losses with it."""
        if self.sampler is not None and self.sampler.progressive:
            self.sampler.set_eta(gbbn_eta(runner.epoch / runner.max_epochs, self.gamma))
            self._set_priors(unwrap(runner.model))

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Set eta."""
        eta = gbbn_eta(runner.iter / runner.max_iters, self.gamma)
        for module in self.targets:
            module.set_eta(eta)
