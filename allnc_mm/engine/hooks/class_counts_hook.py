import re

import numpy as np
from mmengine.dataset import RepeatDataset
from mmengine.hooks import Hook

from ...class_counts import read_labels
from ...distributed import unwrap
from ...models.utils import MultiViewDataPreprocessor
from ...registry import HOOKS
from .epoch_start_hook import EpochStartHook
from .gbbn_hook import GBBNHook


def num_per_class(dataset) -> list[int]:
    """Training images per class: the training data set's metainfo, or counted over its labels.

    What is counted is written to the metainfo, which stays the one owner. A wrapper has the metainfo of (the first of)
    what it wraps, so there the labels are counted as often as they are seen; but RepeatDataset repeats all alike.

    Raises:
        ValueError: if the data set says neither, with the remedy.
    """
    if isinstance(dataset, RepeatDataset):
        return num_per_class(dataset.dataset)
    wraps = hasattr(dataset, 'dataset') or hasattr(dataset, 'datasets')
    counts = None if wraps else dataset.metainfo.get('num_per_class')
    names = dataset.metainfo.get('classes') or dataset.metainfo.get('num_per_class')
    if counts is None and names and (wraps or hasattr(dataset, 'get_gt_labels')):
        labels = read_labels(dataset, 'ClassCountsHook')
        counts = np.bincount(labels, minlength=len(names)).tolist()
        dataset._metainfo['num_per_class'] = counts
    if counts is None:
        raise ValueError(f"The training data set {type(dataset).__name__} has no metainfo['num_per_class'] and no "
                         'labels that can be counted (get_gt_labels, classes); use one of the long-tailed data sets of '
                         'allnc_mm, or give dataset.metainfo=dict(num_per_class=[...]).')
    return [int(n) for n in counts]


def check_same_classes(train: dict, other: dict, name: str) -> None:
    """Compare the class names of two metainfos; a folder per class, of which one is missing, shifts the labels.

    Raises:
        ValueError: if both have names, and they differ.
    """
    first, second = train.get('classes'), other.get('classes')
    if first is None or second is None or list(first) == list(second):
        return
    odd = sorted(set(first) ^ set(second), key=str) or [b for a, b in zip(first, second) if a != b]
    raise ValueError(f'The classes of the {name} set are not those of the training set ({len(second)}, {len(first)}; '
                     f'{", ".join(map(str, odd[:5]))}): labels would not mean the same. In a folder per class, a class '
                     'without images needs an empty folder.')


@HOOKS.register_module()
class ClassCountsHook(Hook):
    """Hand the training images per class to every module that has ``set_class_counts``, before the first iteration.

    The counts are typed nowhere else. Behind a sampler with a ``prior`` (:class:`ClassBalancedSampler`) the losses are
    told that class distribution, so that the prior is removed once. What would go wrong without a word is checked here:
    the number of classes of the model's head and of one-hot labels, that the validation has the classes of the
    training, the number of views that the pipeline yields, and that a module which waits for eta (``GBBNHook``) or for
    the epoch (``EpochStartHook``) gets it.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner) -> None:
        """Check the number of classes and hand out the counts."""
        model = unwrap(runner.model)
        dataset = runner.train_dataloader.dataset
        counts = num_per_class(dataset)
        if runner.val_loop is not None:
            check_same_classes(dataset.metainfo, getattr(runner.val_dataloader.dataset, 'metainfo', {}), 'validation')
        for name, module in model.named_modules():
            classes = getattr(module, 'num_classes', None)
            head = re.fullmatch(r'.*head(\.\d+)?', name)  # those of a cascade are numbered
            if head and isinstance(classes, int) and classes != len(counts):
                raise ValueError(f'{name}.num_classes is {classes}, but the training data set has {len(counts)} classes'
                                 f'; set {name}.num_classes={len(counts)}.')
        preprocessor = model.data_preprocessor
        labels = getattr(preprocessor, 'num_classes', None) if getattr(preprocessor, 'to_onehot', False) else None
        if labels is not None and labels != len(counts):  # stock configs for ImageNet have 1,000
            raise ValueError(f'The data preprocessor makes one-hot labels of {labels} classes, as mmpretrain\'s batch '
                             f'augmentations need them, but the training data set has {len(counts)} classes; set '
                             f'data_preprocessor.num_classes={len(counts)}.')
        if any(hasattr(module, 'set_eta') for module in model.modules()) and not any(
                isinstance(hook, GBBNHook) for hook in runner.hooks):
            raise ValueError(f'{type(model).__name__} has two branches, but nothing moves eta from the first to the '
                             "second; add default_hooks=dict(gbbn=dict(type='GBBNHook')).")
        if any(hasattr(module, 'start_epoch') for module in model.modules()) and not any(
                isinstance(hook, EpochStartHook) for hook in runner.hooks):
            raise ValueError(f'{type(model).__name__} has a loss that forgets older epochs (ProCoLoss), but nothing '
                             "tells it when one begins; add custom_hooks=[dict(type='EpochStartHook')].")
        views = getattr(model, 'num_views', getattr(getattr(model, 'head', None), 'num_views', None))
        if isinstance(preprocessor, MultiViewDataPreprocessor):
            preprocessor.num_views = views
        self.counts, self.prior = counts, getattr(runner.train_dataloader.sampler, 'prior', None)
        self.served: set = set()
        self._serve(model)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Serve a loss that mmpretrain's ``SwitchRecipeHook`` has put there before this epoch."""
        if batch_idx == 0:
            self._serve(unwrap(runner.model))

    def _serve(self, model) -> None:
        new = [module for module in model.modules() if module not in self.served]
        self.served.update(new)
        for module in new:
            if hasattr(module, 'set_class_counts'):
                module.set_class_counts(self.counts)
            if self.prior is not None and hasattr(module, 'set_prior'):
                module.set_prior(self.prior)
