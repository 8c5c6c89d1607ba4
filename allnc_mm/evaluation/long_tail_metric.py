import json
import logging
import os
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from ..class_counts import read_class_counts
from ..fileio import whole_file
from ..functional.calibration import calibration_bins, calibration_error
from ..functional.longtail import group_classes
from ..registry import METRICS

NAMES = ('many', 'medium', 'few')


def long_tail_summary(per_class: np.ndarray, groups: dict[str, np.ndarray]) -> dict[str, float]:
    """Averages of per-class accuracies: balanced, the groups, worst class, geometric and harmonic mean.

    Classes without test samples (NaN) are left out. A group without any class is NaN, and with it the harmonic mean of
    the three groups.
    """
    known = per_class[~np.isnan(per_class)]
    summary = dict(balanced=_mean(known))
    for name in NAMES:
        group = per_class[groups[name]]
        summary[name] = _mean(group[~np.isnan(group)])
    summary['worst_class'] = float(known.min()) if len(known) else float('nan')
    with np.errstate(divide='ignore'):  # one class, or group, at zero makes these means zero
        summary['geometric_mean'] = float(np.exp(_mean(np.log(known))))
        summary['harmonic_mean'] = float(1 / np.mean([1 / np.float64(summary[name]) for name in NAMES]))
    return summary


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float('nan')


@METRICS.register_module()
class LongTailMetric(BaseMetric):
    r"""Accuracy and calibration on a test set, split by how often a class occurs in *training*.

    The convention of `Large-Scale Long-Tailed Recognition in an Open World <https://arxiv.org/abs/1904.05160>`_: the
    accuracies of the classes are averaged within the groups many, medium and few. All values are in percent. Reported
    are

    - ``overall`` (over samples) and ``balanced`` (over classes) accuracy;
    - ``many``, ``medium``, ``few``: mean accuracy of the classes in a group, NaN for an empty group;
    - ``worst_class``, ``geometric_mean`` over the classes, ``harmonic_mean`` of the three groups;
    - ``ece`` and ``mce``, the expected and maximum calibration error of the top-1 confidence (`Guo et al.
      <https://arxiv.org/abs/1706.04599>`_), and ``ece_balanced``, in which sample i counts
      :math:`\frac{1}{K n^{\text{test}}_{y_i}}`.

    The accuracies of all classes are in the attribute ``per_class`` after an evaluation (a metric of mmengine is a
    scalar: LoggerHook prints lists on one line, and the visualizers leave them out).

    Training counts come from ``num_per_class`` in the metainfo of the evaluated data set; the data sets of this package
    provide it in every split. Each process keeps label, prediction and confidence of its samples, so that the
    duplicates with which a distributed sampler fills the last batch are dropped exactly.

    Args:
        groups (str | Sequence[int] | Sequence[Sequence[int]]): 'A': many > 100 training images, 20 <= medium <= 100,
            few < 20. 'B': many >= 100, few <= 20. Three sizes, such as (4, 3, 3), in the order of the classes. Or
            three lists of class indices. Defaults to 'A'.
        num_per_class (Sequence[int] | str, optional): Training counts, or the path of the JSON file that
            ``class_stats.py`` writes, for data sets without them in their metainfo.
        num_bins (int): Bins of the calibration errors. Defaults to 15.
        out_dir (str, optional): Where to write ``per_class.json``, with the accuracy of every class, after each
            evaluation. Not written by default.
        collect_device (str): Device for collecting results from different ranks, 'cpu' or 'gpu'. Defaults to 'cpu'.
        prefix (str, optional): Prefix of the names of the metrics. Defaults to 'long_tail'.

    Raises:
        ValueError: without training counts, with two that differ, with groups that do not fit them, for a label that is
            out of range, or for scores that are NaN or of the wrong length.

    Examples:
        >>> val_evaluator = dict(type='LongTailMetric', groups='A')
        >>> # a balanced criterion for the best checkpoint
        >>> default_hooks = dict(checkpoint=dict(save_best='long_tail/balanced', rule='greater'))
    """
    default_prefix = 'long_tail'

    def __init__(self,
                 groups: str | Sequence[int] | Sequence[Sequence[int]] = 'A',
                 num_per_class: Sequence[int] | str | None = None,
                 num_bins: int = 15,
                 out_dir: str | None = None,
                 collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not isinstance(num_bins, int) or num_bins < 1:
            raise ValueError(f'LongTailMetric: num_bins must be a positive integer, but got {num_bins!r}.')
        self.groups = groups
        self.num_bins = num_bins
        self.out_dir = out_dir
        self.num_per_class: np.ndarray | None = None
        self.class_groups: dict[str, np.ndarray] = {}
        self.per_class: np.ndarray | None = None
        if num_per_class is not None:
            self._set_counts(read_class_counts(num_per_class, 'LongTailMetric'))

    @property
    def dataset_meta(self) -> dict | None:
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        # The loops set this when they are built: a mistake shows before the first iteration of training.
        self._dataset_meta = dataset_meta
        self._check_counts(dataset_meta or {})
        classes = (dataset_meta or {}).get('classes')
        if classes is not None and len(classes) != len(self.num_per_class):
            raise ValueError(f'LongTailMetric: the evaluated data set has {len(classes)} classes, but num_per_class '
                             f'names {len(self.num_per_class)}: labels would not mean the same class. In a folder per '
                             'class, a class without images needs an empty folder.')

    def _check_counts(self, dataset_meta: dict) -> None:
        counts = dataset_meta.get('num_per_class')
        if counts is None:
            if self.num_per_class is None:
                raise ValueError(
                    "LongTailMetric: the metainfo of the evaluated data set has no 'num_per_class' (training images "
                    'per class), so there are no groups. Use a long-tailed data set of allnc_mm, or set '
                    'num_per_class=[...] in the LongTailMetric of the config.')
            return
        if self.num_per_class is None:
            self._set_counts(counts)
        elif not np.array_equal(self.num_per_class, np.asarray(counts)):
            raise ValueError("LongTailMetric: its num_per_class differs from the one in the data set's metainfo; "
                             f'remove the setting. Setting: {self.num_per_class.tolist()}; data: {list(counts)}.')

    def _set_counts(self, counts: Sequence[int]) -> None:
        self.num_per_class = np.asarray(counts)
        if self.num_per_class.ndim != 1 or not len(self.num_per_class):
            raise ValueError(f'LongTailMetric: num_per_class must list one count a class, but got {counts!r}.')
        groups = group_classes(self.num_per_class, self.groups)
        self.class_groups = {name: np.asarray(index, dtype=np.int64) for name, index in groups.items()}
        sizes = ', '.join(f'{name} {len(index)}' for name, index in self.class_groups.items())
        rule = {'A': 'many > 100, 20 <= medium <= 100, few < 20 training images',
                'B': 'many >= 100, 20 < medium < 100, few <= 20 training images'}
        convention = f'convention {self.groups}: {rule[self.groups]}' if isinstance(self.groups, str) else 'explicit'
        print_log(f'LongTailMetric: {sizes} classes ({convention}).', logger='current', level=logging.INFO)

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Store (label, prediction, confidence) of each sample.

        Args:
            data_batch: A batch of data from the dataloader, unused.
            data_samples (Sequence[dict]): Predictions with ``gt_label`` (one label) and ``pred_score`` (K,).
        """
        if self.num_per_class is None:
            raise ValueError("LongTailMetric: no training counts. Its evaluator's dataset_meta was never set; set "
                             'num_per_class=[...] in the LongTailMetric of the config.')
        for sample in data_samples:
            missing = [key for key in ('gt_label', 'pred_score') if key not in sample]
            if missing:
                raise ValueError(f"LongTailMetric: a prediction has no {' and no '.join(missing)}; the data set must "
                                 'have labels and the head must return scores.')
        num_classes = len(self.num_per_class)
        scores = torch.stack([torch.as_tensor(sample['pred_score']) for sample in data_samples])
        labels = torch.cat([torch.as_tensor(sample['gt_label']).flatten().cpu() for sample in data_samples])
        if len(labels) != len(data_samples):
            raise ValueError('LongTailMetric: needs exactly one label a sample, but got multi-label annotations.')
        if scores.shape[1:] != (num_classes, ):
            raise ValueError(f'LongTailMetric: scores have shape {tuple(scores.shape[1:])} a sample, but num_per_class '
                             f"names {num_classes} classes; set the head's num_classes={num_classes}.")
        if bool(((labels < 0) | (labels >= num_classes)).any()):
            raise ValueError(f'LongTailMetric: labels must lie in [0, {num_classes}), but the batch has '
                             f'{int(labels.min())} to {int(labels.max())}; check the annotations of the test set.')
        bad = scores.isnan().any(dim=1)
        if bool(bad.any()):
            raise ValueError(f'LongTailMetric: the scores of {int(bad.sum())} of {len(bad)} samples in the batch are '
                             'NaN; the model has diverged, lower the learning rate or load an earlier checkpoint.')
        confidence, predicted = scores.to(torch.float64).max(dim=1)
        # A softmax may exceed 1 by rounding.
        confidence = torch.where((confidence - 1).abs() < 1e-5, confidence.clamp(max=1), confidence)
        if bool(((confidence < 0) | (confidence > 1)).any()):
            raise ValueError('LongTailMetric: pred_score must be probabilities in [0, 1], but the largest score of a '
                             f'sample is {float(confidence.max()):.4g}; apply the softmax in the head.')
        self.results.extend(zip(labels.tolist(), predicted.tolist(), confidence.tolist()))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics.

        Args:
            results (list[tuple]): (label, prediction, confidence) of every sample of the data set, once.

        Returns:
            dict[str, float]: Values in percent.
        """
        if not results:
            raise ValueError('LongTailMetric: nothing was evaluated; the test set is empty.')
        labels, predicted, confidence = (np.asarray(column) for column in zip(*results))
        num_classes = len(self.num_per_class)
        correct = labels == predicted
        samples = np.bincount(labels, minlength=num_classes)
        hits = np.bincount(labels[correct], minlength=num_classes)
        self.per_class = np.where(samples > 0, 100 * hits / np.maximum(samples, 1), np.nan)

        metrics = dict(overall=100 * float(correct.mean()), **long_tail_summary(self.per_class, self.class_groups))
        top1 = torch.from_numpy(confidence), torch.from_numpy(correct)
        bins = calibration_bins(*top1, num_bins=self.num_bins)
        balanced = calibration_bins(*top1, num_bins=self.num_bins, weight=torch.from_numpy(1 / samples[labels]))
        metrics['ece'] = 100 * calibration_error(bins)
        metrics['ece_balanced'] = 100 * calibration_error(balanced)
        metrics['mce'] = 100 * calibration_error(bins, norm='max')

        if self.out_dir is not None:
            per_class = [None if np.isnan(value) else value for value in self.per_class.tolist()]
            with whole_file(os.path.join(self.out_dir, 'per_class.json')) as part, open(part, 'w') as file:
                json.dump(dict(accuracy=per_class, num_per_class=self.num_per_class.tolist(),
                               groups={name: index.tolist() for name, index in self.class_groups.items()}), file)
        return metrics
