from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.evaluator import BaseMetric
from torch import Tensor

from ...functional.collapse import (
    ClassStatistics,
    equiangularity,
    group_cosine,
    nc1,
    nc1_quotient,
    self_duality,
)
from ...functional.longtail import group_by_share
from ...registry import METRICS
from ..utils import capture_features, classifier_weight
from .long_tail_iou_metric import pixel_groups


def spread_pixels(labels: Tensor, num_classes: int, per_class: int) -> Tensor:
    """At most ``per_class`` positions of every class, spread evenly over those it has: the same in every evaluation.

    Args:
        labels (Tensor): Shape (P,); values outside of [0, num_classes) are left out.
        num_classes (int): K.
        per_class (int): Limit for each class.

    Returns:
        Tensor: Positions in ``labels``, by class.
    """
    labels = torch.where((labels >= 0) & (labels < num_classes), labels, num_classes)
    order = labels.argsort(stable=True)
    chosen, start = [], 0
    for count in labels.bincount(minlength=num_classes + 1)[:num_classes].tolist():
        if count:
            taken = min(count, per_class)
            chosen.append(order[start + (torch.arange(taken, device=order.device) * count + count // 2) // taken])
        start += count
    return torch.cat(chosen) if chosen else order[:0]


@METRICS.register_module()
class PixelCollapseMetric(BaseMetric):
    """How far pixel features and classifier of a decode head are from neural collapse.

    The features are what the classifier of the (last) decode head reads, at its resolution; each takes the label of the
    pixel at its centre. From every image, at most ``per_class`` pixels of each class are used, spread evenly: the
    sample is the same in every evaluation, and memory does not depend on the size of the images or their number (means
    (K, d) and one (d, d) matrix in float64). Reported, with the formulas of :mod:`allnc_mm.functional.collapse`:

    - ``nc1`` and ``nc1_quotient``: spread within classes over that between them;
    - ``std_cos_means``, ``std_cos_classifier``: NC2, standard deviation of the cosines over pairs of classes;
    - ``self_duality``: NC3, distance of classifier and class means;
    - ``tail_cosine`` and ``tail_cosine_means``: mean cosine between tail classes, whose vectors fall together under
      imbalance; -1/(K-1) at the simplex.

    The metric needs the model: ``default_hooks=dict(attach_metrics=dict(type='AttachMetricsHook'))`` hands it over.

    Args:
        per_class (int): Pixels of a class and image. Defaults to 64.
        thresholds (Sequence[float]): What is tail, as in :class:`LongTailIoUMetric`. Defaults to (1.0, 0.2).
        ignore_index (int): Label that is left out. Defaults to 255.
        prefix (str, optional): Prefix of the names. Defaults to 'collapse'.

    Raises:
        ValueError: on a setting out of range, without the hook, or with ``test_cfg.mode='slide'``.
    """
    default_prefix = 'collapse'

    def __init__(self,
                 per_class: int = 64,
                 thresholds: Sequence[float] = (1.0, 0.2),
                 ignore_index: int = 255,
                 collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not isinstance(per_class, int) or per_class < 1:
            raise ValueError(f'PixelCollapseMetric: per_class must be a positive integer, but got {per_class!r}.')
        group_by_share([1], thresholds)  # refuses bad thresholds when the config is read
        self.per_class = per_class
        self.thresholds = thresholds
        self.ignore_index = ignore_index
        self._model = self._capture = None
        self._reset()

    def _reset(self) -> None:
        self._stats: ClassStatistics | None = None
        self._pending: tuple[ClassStatistics, Tensor] | None = None
        self._pixels = torch.zeros(0, dtype=torch.int64)
        self._seen = 0

    def attach(self, segmentor) -> None:
        """Record the features of this model from now until the evaluation ends."""
        if getattr(segmentor, 'test_cfg', None) and segmentor.test_cfg.get('mode') == 'slide':
            raise ValueError("PixelCollapseMetric needs one pass over each image, but test_cfg.mode is 'slide'; set "
                             "test_cfg=dict(mode='whole') or remove the metric.")
        self.detach()
        self._reset()
        self._model, self._capture = segmentor, capture_features(segmentor)
        self._features = self._capture.__enter__()

    def detach(self) -> None:
        """Stop recording."""
        if self._capture is not None:
            self._capture.__exit__(None, None, None)
        self._model = self._capture = None

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Take in the features of a batch.

        Args:
            data_batch: A batch of data from the dataloader, unused.
            data_samples (Sequence[dict]): Predictions with ``gt_sem_seg`` and the sizes of the image.
        """
        if self._capture is None:
            raise ValueError('PixelCollapseMetric has no model; add default_hooks=dict(attach_metrics=dict('
                             "type='AttachMetricsHook')).")
        num_classes = len(self.dataset_meta['classes'])
        for features, sample in zip(self._features.features, data_samples):
            dim, height, width = features.shape
            label = sample['gt_sem_seg']['data'].squeeze(0).to(features.device)
            # the pixel at the centre of each feature: the network's input may be padded, and of another size
            shown, padded = sample['img_shape'][:2], sample.get('pad_shape', sample['img_shape'])[:2]
            index = []
            for size, cells, inner, outer in zip(label.shape, (height, width), shown, padded):
                centre = (torch.arange(cells, device=label.device) + 0.5) * outer / cells
                index.append(torch.where(centre < inner, (centre * size / inner).long(), -1))
            rows, columns = index
            at = label[rows[:, None].clamp(min=0), columns.clamp(min=0)].long()
            at = torch.where((rows[:, None] < 0) | (columns < 0), self.ignore_index, at).flatten()
            at = torch.where(at == self.ignore_index, num_classes, at)
            pixels = at.bincount(minlength=num_classes)[:num_classes].cpu()
            chosen = spread_pixels(at, num_classes, self.per_class)
            stats = ClassStatistics(num_classes, dim)
            stats.update(features.detach().flatten(1)[:, chosen].T.cpu(), at[chosen].cpu())
            self._take_pending()
            # kept apart until the next image: the last one of a rank may be the filling of a distributed sampler
            self._pending = stats, pixels
            self._seen += 1

    def _take_pending(self) -> None:
        if self._pending is None:
            return
        stats, pixels = self._pending
        self._pending = None
        if self._stats is None:
            self._stats, self._pixels = stats, pixels
        else:
            self._stats.merge(stats)
            self._pixels = self._pixels + pixels

    def evaluate(self, size: int) -> dict[str, float]:
        """Merge the statistics of all ranks, in their order, and compute the measures.

        Args:
            size (int): Length of the data set.

        Returns:
            dict[str, float]: The measures.
        """
        rank, world_size = get_dist_info()
        if (self._seen - 1) * world_size + rank < size:
            self._take_pending()
        state = None if self._stats is None else (self._stats.state_dict(), self._pixels)
        states = [state for state in all_gather_object(state) if state is not None]
        if not states:
            raise ValueError('PixelCollapseMetric: nothing was evaluated; the data set is empty.')
        stats, pixels = ClassStatistics.from_state_dict(states[0][0]), states[0][1]
        for other, counts in states[1:]:
            stats.merge(ClassStatistics.from_state_dict(other))
            pixels = pixels + counts
        means, weight = stats.class_means(), classifier_weight(self._model).detach().cpu()
        tail = pixel_groups(self.dataset_meta, pixels.numpy(), self.thresholds)[0]['tail']
        measures = dict(
            nc1=nc1(stats), nc1_quotient=nc1_quotient(stats), std_cos_means=equiangularity(means),
            std_cos_classifier=equiangularity(weight), self_duality=self_duality(weight, means),
            tail_cosine=group_cosine(weight, tail, center=True),
            tail_cosine_means=group_cosine(means, tail, center=True))
        self.detach()
        self._reset()
        return {f'{self.prefix}/{name}' if self.prefix else name: value for name, value in measures.items()}

    def compute_metrics(self, results: list) -> dict:
        """Not used: :meth:`evaluate` merges statistics instead of collecting results."""
        raise NotImplementedError
