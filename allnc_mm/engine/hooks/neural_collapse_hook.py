import copy
import logging
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.dataset import Compose, DefaultSampler, default_collate
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader, Subset

from ...class_counts import read_labels
from ...distributed import unwrap
from ...evaluation import NeuralCollapseMetric
from ...registry import HOOKS


def without_augmentation(dataset, pipeline):
    """A view of a training set, with its images but another pipeline; data are shared, not loaded again.

    Wrappers that only change how often an image is seen (RepeatDataset, ClassBalancedDataset) are left out.
    """
    if hasattr(dataset, 'full_init'):
        dataset.full_init()  # a KFoldDataset takes its part of the images
    if isinstance(dataset, Subset):
        return Subset(without_augmentation(dataset.dataset, pipeline), dataset.indices)
    if hasattr(dataset, 'datasets'):  # ConcatDataset
        dataset = copy.copy(dataset)
        dataset.datasets = [without_augmentation(part, pipeline) for part in dataset.datasets]
        dataset.cumulative_sizes = dataset.cumsum(dataset.datasets)
        return dataset
    if hasattr(dataset, 'dataset'):
        return without_augmentation(dataset.dataset, pipeline)
    dataset = copy.copy(dataset)
    dataset.pipeline, dataset.test_mode = pipeline, True
    if hasattr(dataset, 'whole_batch'):
        dataset.whole_batch = False  # DeviceAugmentationHook augments the batches that it hands out
    return dataset


def pipeline_of(dataset):
    """The pipeline of the (first) data set below its wrappers."""
    while not hasattr(dataset, 'pipeline'):
        dataset = dataset.datasets[0] if hasattr(dataset, 'datasets') else dataset.dataset
    return dataset.pipeline


def stratified(dataset, max_per_class: int, seed: int) -> Subset:
    """At most ``max_per_class`` images of every class, the same ones for the same seed."""
    labels = read_labels(dataset, f'NeuralCollapseHook(max_per_class={max_per_class}; None takes all images)')
    order = np.random.RandomState(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind='stable')]
    place = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])  # within the class
    return Subset(dataset, np.sort(order[place < max_per_class]).tolist())


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards all modes and random states are as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True  # train() would recurse into those that are frozen
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


@HOOKS.register_module()
class NeuralCollapseHook(Hook):
    """Follow neural collapse during the training: the measures on the training set, without augmentation, as curves.

    Before the first iteration, every ``interval`` epochs and after the last one, :class:`NeuralCollapseMetric` runs
    over the training images with the pipeline of the validation and the model in evaluation mode; the values go to the
    visualizer (TensorBoard, local JSON, ...) and the important ones to the log. The weights are those in training, not
    their moving average (EMA). The training is not disturbed: weights, statistics of normalisation layers and random
    states are afterwards what they were, so a run with this hook ends with the weights of one without it. With several
    processes each one takes its share of the images, and all take part in the merge.

    It also hands the model to any ``NeuralCollapseMetric`` in the evaluators of validation and test.

    Cost of one evaluation: two forward passes over the images (one without ``second_pass``; ``max_per_class`` makes
    them few), 2 N d^2 operations in float64 for the scatter matrix (twice with ``gnc``), 6 N K d in the second pass,
    and, once, a singular value decomposition of the class means and about ten products (K, d) x (d, K). In CPU seconds,
    on one core of a server, beside the forward passes:

    ======  ======  =======================  ========================  =============
    K       d       first pass, 1000 images  second pass, 1000 images  the measures
    ======  ======  =======================  ========================  =============
    100     64      0.005                    0.002                     0.02
    1,000   2,048   1.0                      0.3                       6
    8,142   2,048   1.0                      1.6                       84
    ======  ======  =======================  ========================  =============

    Features on a GPU are accumulated there. Memory: 8 (K d + d^2) bytes (twice with ``gnc``), whatever the number of
    images; while the measures are computed, a few times as much, never K x K.

    Args:
        interval (int): Epochs (or iterations) between two evaluations. Defaults to 1.
        by_epoch (bool): Whether ``interval`` counts epochs; False for an iteration-based training. Defaults to True.
        max_per_class (int, optional): Evaluate a fixed subset with at most so many images of each class; counts, and
            with them the weights of the classes in the pooled measures, are then those of the subset. Defaults to None,
            all images.
        second_pass (bool): Whether to make the second pass that NC4, NCC accuracy and balanced NC1 need. Defaults to
            True.
        groups, gnc: As in :class:`NeuralCollapseMetric`.
        pipeline (Sequence[dict], optional): Transforms of the training images. Defaults to None: those of the
            validation set.
        batch_size (int, optional): Defaults to None: that of the validation.
        seed (int): Of the choice of the subset. Defaults to 0.
        prefix (str): Prefix of the names. Defaults to 'neural_collapse_train'.

    Raises:
        ValueError: on a setting out of range, with ``by_epoch`` in an iteration-based training, or without a validation
            to take the pipeline from.

    Examples:
        >>> custom_hooks = [dict(type='NeuralCollapseHook', interval=10)]
        >>> # 200 images a class are enough for curves on a large data set
        >>> custom_hooks = [dict(type='NeuralCollapseHook', interval=5, max_per_class=200, second_pass=False)]
    """

    priority = 'LOW'
    shown = ('nc1', 'nc2_equiangularity_means', 'nc2_equiangularity_classifier', 'nc3', 'nc4_agreement', 'mci')

    def __init__(self,
                 interval: int = 1,
                 by_epoch: bool = True,
                 max_per_class: int | None = None,
                 second_pass: bool = True,
                 groups: str | Sequence[int] | Sequence[Sequence[int]] | None = None,
                 gnc: bool = True,
                 pipeline: Sequence[dict] | None = None,
                 batch_size: int | None = None,
                 seed: int = 0,
                 prefix: str = 'neural_collapse_train') -> None:
        for name, value in (('interval', interval), ('max_per_class', max_per_class), ('batch_size', batch_size)):
            if not (isinstance(value, int) and value >= 1 or value is None and name != 'interval'):
                raise ValueError(f'`{name}` of NeuralCollapseHook must be a positive integer, but got {value!r}.')
        self.interval, self.by_epoch, self.max_per_class = interval, by_epoch, max_per_class
        self.second_pass, self.pipeline, self.batch_size, self.seed = second_pass, pipeline, batch_size, seed
        self.metric = NeuralCollapseMetric(groups=groups, gnc=gnc, prefix=prefix)

    def before_train(self, runner) -> None:
        """Prepare the data, and evaluate the model as it was initialised (not one that is resumed)."""
        if self.by_epoch and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError('NeuralCollapseHook(by_epoch=True) counts epochs, but the training loop is '
                             f'{type(runner.train_loop).__name__}; set by_epoch=False and an interval of iterations.')
        val = None if runner.val_loop is None else runner.val_dataloader
        if val is None and (self.pipeline is None or self.batch_size is None):
            raise ValueError('NeuralCollapseHook takes the transforms and the batch size of the validation, but this '
                             'training has none; set pipeline=[...] and batch_size=... in the hook.')
        train = runner.train_dataloader
        pipeline = pipeline_of(val.dataset) if self.pipeline is None else Compose(self.pipeline)
        dataset = without_augmentation(train.dataset, pipeline)
        if self.max_per_class is not None:
            dataset = stratified(dataset, self.max_per_class, self.seed)
        source = train if val is None else val
        self.loader = DataLoader(
            dataset,
            batch_size=self.batch_size or val.batch_size,
            sampler=DefaultSampler(dataset, shuffle=False, seed=0),
            num_workers=source.num_workers,
            collate_fn=default_collate if getattr(source.dataset, 'whole_batch', False) else source.collate_fn,
            pin_memory=source.pin_memory)
        self.metric.dataset_meta = train.dataset.metainfo
        if runner.iter == 0:
            self._evaluate(runner, 0)

    def after_train_epoch(self, runner) -> None:
        """Evaluate, where it is time."""
        if self.by_epoch and (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            self._evaluate(runner, runner.epoch + 1)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Evaluate, where it is time."""
        if not self.by_epoch and (self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner)):
            self._evaluate(runner, runner.iter + 1)

    def _evaluate(self, runner, step: int) -> None:
        start = time.perf_counter()
        model = unwrap(runner.model)
        evaluator, size = Evaluator(self.metric), len(self.loader.dataset)
        self.metric.attach(model)
        try:
            with undisturbed(model):
                self._pass(model, evaluator)
                if self.second_pass:
                    self.metric.second_pass(size)
                    self._pass(model, evaluator)
                values = evaluator.evaluate(size)
        finally:
            self.metric.detach()
        # a curve has no point where it is undefined: NaN is no JSON, and the log has said why
        runner.visualizer.add_scalars({name: value for name, value in values.items() if value == value}, step=step)
        shown = ', '.join(f'{name} {values[f"{self.metric.prefix}/{name}"]:.4g}' for name in self.shown)
        print_log(f'Neural collapse on {size} training images at {"epoch" if self.by_epoch else "iteration"} {step} '
                  f'({time.perf_counter() - start:.1f} s): {shown}.', logger='current', level=logging.INFO)

    def _pass(self, model: nn.Module, evaluator: Evaluator) -> None:
        for batch in self.loader:
            evaluator.process(data_samples=model.val_step(batch), data_batch=batch)

    def before_val(self, runner) -> None:
        """Hand the model to the metrics of the validation."""
        self._attach(runner, runner.val_evaluator)

    def after_val(self, runner) -> None:
        """Take it back."""
        self._detach(runner.val_evaluator)

    def before_test(self, runner) -> None:
        """Hand the model to the metrics of the test."""
        self._attach(runner, runner.test_evaluator)

    def after_test(self, runner) -> None:
        """Take it back."""
        self._detach(runner.test_evaluator)

    @staticmethod
    def _attach(runner, evaluator: Evaluator) -> None:
        for metric in evaluator.metrics:
            if isinstance(metric, NeuralCollapseMetric):
                metric.attach(runner.model)

    @staticmethod
    def _detach(evaluator: Evaluator) -> None:
        for metric in evaluator.metrics:
            if isinstance(metric, NeuralCollapseMetric):
                metric.detach()
