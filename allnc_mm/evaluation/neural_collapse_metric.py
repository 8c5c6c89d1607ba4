import logging
from collections.abc import Sequence

import torch
from mmengine.dist import all_reduce, broadcast, broadcast_object_list, get_dist_info, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor, nn

from ..class_counts import read_class_counts
from ..functional.collapse import ClassStatistics, SecondPass, collapse_measures
from ..functional.longtail import group_classes
from ..registry import METRICS
from .last_layer import LastLayer


def _merge_ranks(stats: ClassStatistics) -> ClassStatistics:
    """Statistics of all ranks, merged in their order: the same bits on each."""
    rank, world_size = get_dist_info()
    if world_size == 1:
        return stats
    total = None
    for source in range(world_size):
        state = stats.state_dict()
        if rank != source:
            state = {name: torch.empty_like(value) for name, value in state.items()}
        for value in state.values():
            broadcast(value, source)
        if total is None:
            total = ClassStatistics.from_state_dict(state)
        else:
            total.merge(ClassStatistics.from_state_dict(state))
    return total


@METRICS.register_module()
class NeuralCollapseMetric(BaseMetric):
    r"""How far the features and the classifier of any mmpretrain classifier are from neural collapse.

    The measures, their names and optima are those of :func:`allnc_mm.functional.collapse.collapse_measures`: NC1 to NC4
    of `Prevalence of neural collapse <https://arxiv.org/abs/2008.08186>`_, GNC1 to GNC3 of `Generalized neural collapse
    <https://arxiv.org/abs/2310.05351>`_, and the minority-collapse index of the `layer-peeled model
    <https://arxiv.org/abs/2101.12699>`_. A measure that is undefined is NaN, and the attribute ``reasons`` (and the
    log) says why; a head without a linear classifier leaves those of the class means.

    Features are what the classifier reads (for a linear head, the neck's output), kept from the forward pass that
    predicts; nothing is computed twice. A cosine classifier reads directions, so for it they are unit vectors. They are
    not stored: the metric keeps counts, means (K, d) and a (d, d) scatter matrix in float64, twice with ``gnc``; 0.3 GB
    for 8142 classes with 2048 features. Process by process they are merged exactly, in the order of the ranks, without
    the duplicates with which a distributed sampler fills its last batch.

    The metric needs the model: :class:`allnc_mm.engine.hooks.NeuralCollapseHook` hands it over. NC4, NCC accuracy and
    the balanced NC1 need the final means and hence a second pass, which that hook makes on the training set; in a
    ``val_evaluator`` they are NaN. Neural collapse is a property of the *training* set; on a test set the measures
    tell how far it carries over.

    Args:
        groups (str | Sequence[int] | Sequence[Sequence[int]], optional): Report angles, NC1 and NC3 by groups of
            classes as well: 'A', 'B', sizes or lists as in :class:`LongTailMetric`. Defaults to None.
        num_per_class (Sequence[int] | str, optional): Training counts, or the path of the JSON of ``class_stats.py``;
            they say which classes are the tail. Defaults to None: those in the data set's metainfo, else the counts of
            what is evaluated.
        gnc (bool): Whether to report GNC1 and GNC3, which need the statistics of normalised features. Defaults to True.
        prefix (str, optional): Prefix of the names. Defaults to 'neural_collapse'.

    Raises:
        ValueError: without the hook; for features that are not one vector an image; for several labels an image.

    Examples:
        >>> val_evaluator = [dict(type='Accuracy'), dict(type='NeuralCollapseMetric')]
        >>> custom_hooks = [dict(type='NeuralCollapseHook', interval=10)]
    """
    default_prefix = 'neural_collapse'

    def __init__(self,
                 groups: str | Sequence[int] | Sequence[Sequence[int]] | None = None,
                 num_per_class: Sequence[int] | str | None = None,
                 gnc: bool = True,
                 prefix: str | None = None) -> None:
        super().__init__(prefix=prefix)
        self.groups, self.gnc = groups, gnc
        self.num_per_class = read_class_counts(num_per_class, 'NeuralCollapseMetric')
        self.reasons: dict[str, str] = {}
        self._layer: LastLayer | None = None
        self._reset()

    def _reset(self) -> None:
        self._stats: ClassStatistics | None = None
        self._unit_stats: ClassStatistics | None = None
        self._second: SecondPass | None = None
        self._start_pass()

    def _start_pass(self) -> None:
        self._seen = 0
        self._pending: tuple[Tensor, Tensor] | None = None

    def attach(self, model: nn.Module) -> None:
        """Watch the classifier of a model, until :meth:`detach`; forgets what was evaluated so far."""
        self.detach()
        self._layer = LastLayer(model)
        self._reset()

    def detach(self) -> None:
        """Stop watching."""
        if self._layer is not None:
            self._layer.close()
        self._layer = None

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Take in the features of the forward pass that made these predictions.

        Args:
            data_batch: A batch of data from the dataloader, unused.
            data_samples (Sequence[dict]): Predictions with ``gt_label``.
        """
        if self._layer is None:
            raise ValueError('NeuralCollapseMetric has no model: add '
                             "custom_hooks=[dict(type='NeuralCollapseHook')] to the config, which hands it over.")
        features = self._layer.features()
        if any('gt_label' not in sample for sample in data_samples):
            raise ValueError('NeuralCollapseMetric: a prediction has no gt_label; the data set must have labels.')
        labels = torch.cat([torch.as_tensor(sample['gt_label']).flatten() for sample in data_samples])
        if not len(labels) == len(data_samples) == len(features):
            raise ValueError(f'NeuralCollapseMetric needs one label and one feature vector an image, but the batch has '
                             f'{len(data_samples)} images, {len(labels)} labels and {len(features)} vectors.')
        self._take_pending()
        # kept apart until the next batch: the last samples of a rank may be the filling of a distributed sampler
        self._pending = features, labels
        self._seen += len(labels)

    def _take_pending(self, size: int | None = None) -> None:
        if self._pending is None:
            return
        features, labels = self._pending
        self._pending = None
        if size is not None:  # sample j of this rank has the place j * world_size + rank in the data set
            rank, world_size = get_dist_info()
            keep = max(len(labels) - max(self._seen - len(range(rank, size, world_size)), 0), 0)
            features, labels = features[:keep], labels[:keep]
        labels = labels.to(features.device)
        if self._second is not None:
            self._second.update(features, labels)
            return
        if self._stats is None:
            shape = self._num_classes(), features.size(1)
            device = features.device if features.is_cuda else 'cpu'  # others may not know float64
            self._stats = ClassStatistics(*shape, device=device)
            if self.gnc:
                self._unit_stats = ClassStatistics(*shape, device=device)
        self._stats.update(features, labels)
        if self._unit_stats is not None:
            self._unit_stats.update_directions(features, labels)

    def _num_classes(self) -> int:
        weight, _ = self._classifier()
        meta = self.dataset_meta or {}
        named = self.num_per_class or meta.get('num_per_class') or meta.get('classes')
        num_classes = self._layer.num_classes or len(weight if weight is not None else named or ())
        if not num_classes:
            raise ValueError('NeuralCollapseMetric: neither the head nor the metainfo of the data set says how many '
                             'classes there are; set num_per_class=[...] in the NeuralCollapseMetric.')
        return num_classes

    def _classifier(self) -> tuple[Tensor | None, Tensor | None]:
        self._no_classifier = None
        try:
            weight, bias = self._layer.linear_map()
        except ValueError as error:
            self._no_classifier = str(error)
            return None, None
        if self._stats is not None and weight.shape != self._stats.means.shape:
            self._no_classifier = (f'the classifier has shape {tuple(weight.shape)}, but the class means have '
                                   f'{tuple(self._stats.means.shape)}')
            return None, None
        return weight, bias

    def second_pass(self, size: int) -> None:
        """End the first pass: what is processed from here on must be the same samples again.

        Args:
            size (int): Length of the data set.
        """
        self._merge_first_pass(size)
        self._second = SecondPass(self._stats, *self._classifier())
        self._start_pass()

    def _merge_first_pass(self, size: int) -> None:
        self._take_pending(size)
        if self._stats is None:
            raise ValueError('NeuralCollapseMetric: nothing was evaluated; the data set is empty.')
        self._stats = _merge_ranks(self._stats)
        if self._unit_stats is not None:
            self._unit_stats = _merge_ranks(self._unit_stats)

    def evaluate(self, size: int) -> dict[str, float]:
        """Merge the ranks and compute the measures.

        Args:
            size (int): Length of the data set.

        Returns:
            dict[str, float]: The measures, the same on each rank.
        """
        if self._second is None:
            self._merge_first_pass(size)
        else:
            self._take_pending(size)
            for state in self._second.state():
                all_reduce(state)
        metrics = [None]
        if is_main_process():
            metrics = [self.compute_metrics([self._stats])]
        broadcast_object_list(metrics)
        self._reset()
        return {f'{self.prefix}/{name}' if self.prefix else name: value for name, value in metrics[0].items()}

    def compute_metrics(self, results: list[ClassStatistics]) -> dict[str, float]:
        """Compute the measures.

        Args:
            results (list[ClassStatistics]): The merged statistics.

        Returns:
            dict[str, float]: The measures.
        """
        stats, = results
        weight, _ = self._classifier()
        counts = self.num_per_class or (self.dataset_meta or {}).get('num_per_class')
        groups = None
        if self.groups is not None:
            groups = group_classes(stats.counts.tolist() if counts is None else counts, self.groups)
        measures, reasons = collapse_measures(
            stats, weight, second=self._second, unit_stats=self._unit_stats, num_per_class=counts, groups=groups)
        if self._no_classifier:
            reasons = {name: self._no_classifier if reason == 'no classifier vectors' else reason
                       for name, reason in reasons.items()}
        if reasons != self.reasons:
            self.reasons = reasons
            by_reason: dict[str, list[str]] = {}
            for name, reason in reasons.items():
                by_reason.setdefault(reason, []).append(name)
            for reason, names in by_reason.items():
                print_log(f'NeuralCollapseMetric: undefined, as {reason}: {", ".join(names)}.', logger='current',
                          level=logging.INFO)
        return measures
