import torch
import torch.distributed as dist
from mmengine.dist import is_distributed
from mmengine.hooks import CheckpointHook, Hook

from ...distributed import unwrap
from ...registry import HOOKS

_NEVER = torch.iinfo(torch.int64).max


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop all ranks when a loss is NaN or infinite, and say which one and since when.

    Every iteration records *on the device* the first iteration at which each logged loss (every key of the model's
    ``log_vars`` that contains ``loss``: the components and the total) was not finite; the host looks at the records of
    all ranks only every ``interval`` iterations, and before a checkpoint is written or a validation starts. There it
    looks at the weights too, since a finite loss can have an infinite gradient. So no checkpoint ever holds a model
    that has gone astray, and ``--resume`` finds the last sound one.

    Its priority is above that of ``CheckpointHook`` and ``EMAHook``, which it must precede.

    Args:
        interval (int): Iterations between two looks at the records. Defaults to 10.

    Raises:
        FloatingPointError: on all ranks, naming iteration, components and what to do.
    """
    priority = 'ABOVE_NORMAL'

    def __init__(self, interval: int = 10):
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(f'`interval` of FiniteLossHook is the number of iterations between two checks and must be '
                             f'an integer >= 1, but got {interval!r}.')
        self.interval = interval
        self._first: dict[tuple[str, ...], torch.Tensor] = {}

    def before_train(self, runner) -> None:
        self._first.clear()
        self._done = runner.iter
        self._savers = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._done = runner.iter + 1
        names = tuple(name for name in outputs or () if 'loss' in name)
        if names:
            device = next(runner.model.parameters()).device
            finite = torch.stack([torch.as_tensor(outputs[name], device=device).isfinite().all() for name in names])
            # minimum over iterations without reading the values back
            iteration = torch.where(finite, _NEVER, self._done)
            self._first[names] = torch.minimum(self._first.get(names, iteration), iteration)
        saving = any(self._saves_now(hook, runner) for hook in self._savers)
        if saving or self.every_n_train_iters(runner, self.interval):
            self._check(runner, weights=saving)

    def after_train_epoch(self, runner) -> None:
        self._check(runner, weights=True)

    def before_val(self, runner) -> None:
        if self._first:  # inside a training, where CheckpointHook may save the best model afterwards
            self._check(runner, weights=True)

    @staticmethod
    def _saves_now(hook: CheckpointHook, runner) -> bool:
        return not hook.by_epoch and (hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
                                      or (hook.save_last and hook.is_last_train_iter(runner)))

    def _check(self, runner, weights: bool) -> None:
        model = unwrap(runner.model)
        device = next(model.parameters()).device
        sound = torch.ones((), dtype=torch.bool, device=device)
        if weights:
            sound = torch.stack([weight.isfinite().all() for weight in model.parameters()]).all()
        first = [iterations.min() for iterations in self._first.values()]
        first = torch.stack(first).min() if first else torch.full((), _NEVER, device=device)
        verdict = torch.stack([first, sound.long()])
        if is_distributed():
            dist.all_reduce(verdict, op=dist.ReduceOp.MIN)
        iteration, sound = verdict.tolist()
        if iteration < _NEVER:
            found = {name for names, iterations in self._first.items()
                     for name, i in zip(names, iterations.tolist()) if i == iteration}
            what = f'The loss became NaN or infinite in iteration {iteration}', sorted(found, key=lambda n: n == 'loss')
        elif not sound:
            found = {name for name, weight in model.named_parameters() if not weight.isfinite().all()}
            what = f'The weights became NaN or infinite by iteration {self._done}', sorted(found)
        else:
            return
        per_rank = [what[1]]
        if is_distributed():  # a component may have gone astray on another rank only
            per_rank = [None] * dist.get_world_size()
            dist.all_gather_object(per_rank, what[1])
        names = list(dict.fromkeys(name for found in per_rank for name in found))
        shown = ', '.join(names[:5]) + (f' and {len(names) - 5} more' if len(names) > 5 else '')
        raise FloatingPointError(
            f'{what[0]}, in: {shown}. Training stops on all ranks; no checkpoint was written after it. Lower the '
            'learning rate or warm it up, clip gradients (optim_wrapper.clip_grad=dict(max_norm=1.0)), or look for NaN '
            'in the data; then continue from the last checkpoint with --resume.')
