from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from mmengine.logging import print_log
from mmseg.evaluation import IoUMetric

from ...functional.longtail import group_by_share
from ...registry import METRICS


def pixel_groups(dataset_meta: dict | None, evaluated: np.ndarray, thresholds: Sequence[float]
                 ) -> tuple[dict[str, list[int]], str]:
    """Head, middle and tail by the training pixels where the metainfo has them, else by the evaluated ones.

    Returns:
        tuple: The groups, and whose pixels they go by: 'training' or 'evaluated'.
    """
    counts = (dataset_meta or {}).get('num_per_class')
    if counts is None:
        return group_by_share(evaluated, thresholds), 'evaluated'
    return group_by_share(counts, thresholds), 'training'


@METRICS.register_module()
class LongTailIoUMetric(IoUMetric):
    """mmseg's IoUMetric, and its means over head, middle and tail classes.

    Beside ``aAcc``, ``mIoU`` and ``mAcc`` it reports ``mIoU_head``, ``mIoU_middle``, ``mIoU_tail`` and the same of
    ``mAcc``, in percent; NaN for a group without a class. A class belongs to a group by its share of the labelled
    *training* pixels, if the metainfo of the evaluated data set has ``num_per_class`` (CamVid has), and else by its
    share of the evaluated ones: the log says which. The values of all classes are in the attribute ``per_class`` after
    an evaluation.

    Args:
        thresholds (Sequence[float]): Share from which on a class is head, and below which it is tail, in multiples of
            the balanced share 1/K (:func:`allnc_mm.functional.group_by_share`). Defaults to (1.0, 0.2).
        **kwargs: ``ignore_index``, ``iou_metrics`` (which must hold 'mIoU'), ``output_dir``, ... of mmseg's
            :class:`IoUMetric`.

    Raises:
        ValueError: on thresholds that are none, ``iou_metrics`` without 'mIoU', or a label out of range.
    """

    def __init__(self, thresholds: Sequence[float] = (1.0, 0.2), **kwargs) -> None:
        super().__init__(**kwargs)
        group_by_share([1], thresholds)  # refuses bad thresholds when the config is read
        if 'mIoU' not in ([self.metrics] if isinstance(self.metrics, str) else self.metrics):
            raise ValueError("LongTailIoUMetric groups the IoU: iou_metrics must hold 'mIoU', but is "
                             f'{self.metrics!r}.')
        self.thresholds = thresholds
        self.per_class: dict[str, np.ndarray] = {}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Refuse labels that are neither a class nor ignored (the histograms would drop them), then count."""
        num_classes = len(self.dataset_meta['classes'])
        for sample in data_samples if not self.format_only else ():
            label = sample['gt_sem_seg']['data']
            bad = label[((label < 0) | (label >= num_classes)) & (label != self.ignore_index)]
            if bad.numel():
                raise ValueError(
                    f'LongTailIoUMetric: the labels of {sample.get("img_path", "a sample")} have a value out of range '
                    f'({int(bad[0])}, {bad.numel()} pixels in all), but there are {num_classes} classes '
                    f'(0..{num_classes - 1}) and ignore_index={self.ignore_index}; correct the label file, or '
                    'reduce_zero_label of the data set.')
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics, those of mmseg first.

        Args:
            results (list[tuple]): Intersection, union, predicted and labelled pixels of every class, for each image.

        Returns:
            dict[str, float]: Values in percent.
        """
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        # float64: mmseg's float32 sums lose single pixels beyond 2^24
        intersect, union, _, label = (sum(area.double() for area in column).numpy() for column in zip(*results))
        with np.errstate(invalid='ignore', divide='ignore'):
            self.per_class = dict(IoU=100 * intersect / union, Acc=100 * intersect / label)
        groups, source = pixel_groups(self.dataset_meta, label, self.thresholds)
        names = self.dataset_meta['classes']
        shown = '; '.join(f'{name}: {", ".join(names[k] for k in group)}' for name, group in groups.items())
        print_log(f'LongTailIoUMetric, by share of the {source} pixels: {shown}.', logger='current', level=logging.INFO)
        for metric, values in self.per_class.items():
            for name, group in groups.items():
                known = values[group][~np.isnan(values[group])]
                metrics[f'm{metric}_{name}'] = round(float(known.mean()), 2) if len(known) else float('nan')
        return metrics
