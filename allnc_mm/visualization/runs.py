"""Finished runs: find them, evaluate their checkpoint once, and collect what tables, pictures and the report show."""
import copy
import glob
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from rich.markup import escape
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..class_counts import read_labels
from ..engine.hooks.class_counts_hook import check_same_classes
from ..engine.hooks.neural_collapse_hook import pipeline_of, without_augmentation
from ..engine.launch import latest_checkpoint
from ..evaluation import LongTailMetric
from ..evaluation.last_layer import LastLayer
from ..functional.calibration import calibration_bins
from ..functional.collapse import (
    ClassStatistics,
    SecondPass,
    collapse_measures,
    equiangularity,
    group_cosine,
    pairwise_cosines,
)
from ..registry import DATASETS, MODELS

SAMPLES_PER_CLASS = 150
KEPT_BYTES = 1 << 30


@dataclass
class Run:
    """What is shown of a finished run.

    Attributes:
        label (str): Name in table and picture.
        work_dir, config, checkpoint, log (str): Where it comes from.
        num_per_class (np.ndarray): Training images of each class, (K,).
        groups (dict[str, np.ndarray]): Class indices of 'many', 'medium' and 'few'.
        num_test (int): Number of test images.
        metrics (dict[str, float]): Of :class:`LongTailMetric`, in percent, and of the geometry.
        per_class (np.ndarray): Test accuracy of each class in percent, (K,).
        cosines (dict[str, np.ndarray]): (K, K) centred cosines of 'classifier' vectors and class 'means'.
        classes (list[str]): Names of the classes.
        measures (dict[str, float]): Of :func:`collapse_measures`, on the training set.
        reasons (dict[str, str]): Why a measure is undefined (NaN).
        bins (np.ndarray): Of :func:`calibration_bins` on the test set, (3, M).
        vectors (dict[str, np.ndarray]): (K, d) 'classifier' vectors and class 'means', not centred.
        samples (dict[str, tuple[np.ndarray, np.ndarray]]): Features and labels of some 'train' and 'test' images.
        curves (list[dict]): Entries of the logs of its training.
    """
    label: str
    work_dir: str
    config: str
    checkpoint: str
    log: str
    num_per_class: np.ndarray
    groups: dict[str, np.ndarray]
    num_test: int
    metrics: dict[str, float]
    per_class: np.ndarray
    cosines: dict[str, np.ndarray] = field(repr=False)
    classes: list[str] = field(default_factory=list, repr=False)
    measures: dict[str, float] = field(default_factory=dict, repr=False)
    reasons: dict[str, str] = field(default_factory=dict, repr=False)
    bins: np.ndarray | None = field(default=None, repr=False)
    vectors: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    samples: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)
    curves: list[dict] = field(default_factory=list, repr=False)

    @property
    def num_classes(self) -> int:
        return len(self.num_per_class)

    @property
    def order(self) -> np.ndarray:
        """np.ndarray: Classes from head to tail."""
        return np.argsort(-self.num_per_class, kind='stable')

    @property
    def balanced(self) -> bool:
        """bool: Whether all classes have equally many training images."""
        return int(self.num_per_class.min()) == int(self.num_per_class.max())

    @property
    def optimal_cosine(self) -> float:
        return -1 / max(self.num_classes - 1, 1)

    @property
    def tail(self) -> np.ndarray:
        """np.ndarray: The few-shot classes; without two, the half with the fewest images; of balanced data, all."""
        if self.balanced:
            return np.arange(self.num_classes)
        few = self.groups['few']
        return few if len(few) > 1 else np.sort(self.order[::-1][:max(self.num_classes // 2, 2)])

    def class_name(self, index: int) -> str:
        return self.classes[index] if self.classes else str(index)


def _newest(folder: str, *pattern: str) -> str | None:
    return max(glob.glob(os.path.join(glob.escape(folder), *pattern)), key=os.path.getmtime, default=None)


def find_run(work_dir: str) -> tuple[str, str, str]:
    """Config, checkpoint and log of a finished run.

    Args:
        work_dir (str): The folder that ``tools/train.py`` wrote.

    Returns:
        tuple[str, str, str]: The paths. Of several configs or logs, the newest; the folder itself without a log.

    Raises:
        FileNotFoundError: if the folder, its config or a checkpoint is missing.
    """
    if not os.path.isdir(work_dir):
        raise FileNotFoundError(f'{work_dir} is not a folder; give the work_dir of a finished run of tools/train.py.')
    config = _newest(work_dir, '*.py')
    if config is None:
        raise FileNotFoundError(f'{work_dir} holds no config (*.py), which every run dumps there; give the work_dir of '
                                'a run of tools/train.py, not one of its subfolders.')
    checkpoint = latest_checkpoint(work_dir)
    if checkpoint is None:
        raise FileNotFoundError(f'{work_dir} holds no checkpoint; let the run finish: tools/train.py {config}.')
    return config, checkpoint, _find_log(work_dir)


def _find_log(work_dir: str) -> str:
    return _newest(work_dir, '*', '*.log') or work_dir


def read_curves(work_dir: str) -> list[dict]:
    """Entries of the ``vis_data/scalars.json`` of a run, in the order of time.

    A resumed run has one file for each start; what a later start did again replaces what the earlier one logged.

    Args:
        work_dir (str): The folder with the checkpoints.

    Returns:
        list[dict]: One dictionary an entry, empty without logs. Entries of the training have an ``iter``.
    """
    curves: list[dict] = []
    for path in sorted(glob.glob(os.path.join(glob.escape(work_dir), '*', 'vis_data', 'scalars.json'))):
        entries = []
        with open(path) as file:
            for line in file:
                try:
                    entries.append(json.loads(line))
                except ValueError:  # the line that a killed run was writing
                    continue
        entries = [entry for entry in entries if isinstance(entry, dict) and 'step' in entry]
        for training in (True, False):  # iterations and epochs count differently
            first = min((e['step'] for e in entries if ('iter' in e) == training), default=math.inf)
            curves = [e for e in curves if ('iter' in e) != training or e['step'] < first]
        curves += entries
    return curves


def _loaders(cfg: Config, config: str):
    """Loaders of the test set, and of the training set with the pipeline of the test set: no augmentation."""
    test = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if not test or not cfg.get('train_dataloader'):
        raise ValueError(f'{config} has no {"train" if test else "test or val"}_dataloader; both the training and the '
                         'test set are needed.')
    test = copy.deepcopy(dict(test))
    test.update(sampler=dict(type='DefaultSampler', shuffle=False), drop_last=False)
    test.setdefault('collate_fn', dict(type='default_collate'))
    if not torch.cuda.is_available():
        test['pin_memory'] = False
    test.pop('batch_sampler', None)

    loader = Runner.build_dataloader(test)
    dataset = DATASETS.build(cfg.train_dataloader['dataset'])
    check_same_classes(dataset.metainfo, loader.dataset.metainfo, 'test')
    train = DataLoader(  # Runner.build_dataloader would copy the data
        without_augmentation(dataset, pipeline_of(loader.dataset)), loader.batch_size, num_workers=loader.num_workers,
        collate_fn=loader.collate_fn, pin_memory=loader.pin_memory)
    return loader, train


def _groups_setting(cfg: Config):
    for name in ('test_evaluator', 'val_evaluator'):
        evaluators = cfg.get(name) or []
        for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
            if str(evaluator.get('type')).split('.')[-1] == 'LongTailMetric':
                return evaluator.get('groups', 'A')
    return 'A'


def _check_same_data(first: Run, work_dir: str, num_per_class: list[int], num_test: int) -> None:
    if len(num_per_class) != first.num_classes:
        what = f'{first.num_classes} and {len(num_per_class)} classes'
    elif num_per_class != first.num_per_class.tolist():
        what = f'{first.num_per_class.sum()} and {sum(num_per_class)} training images, distributed differently'
    elif num_test != first.num_test:
        what = f'{first.num_test} and {num_test} test images'
    else:
        return
    raise ValueError(f'{first.work_dir} and {work_dir} are runs on different data ({what}); compare runs that share '
                     'training and test set.')


def build_model(cfg: Config) -> nn.Module:
    """The model of a config, as the Runner would build it, without weights."""
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    model_cfg = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor'):
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    return MODELS.build(model_cfg)


def _trained(model: nn.Module, checkpoint: str, config: str) -> nn.Module:
    """The model with the weights of a checkpoint that must fit, on its device and in evaluation mode."""
    try:
        load_checkpoint(model, checkpoint, map_location='cpu', strict=True, logger='silent')
    except RuntimeError as error:
        raise ValueError(f'{checkpoint} does not fit the model of {config}: {error}') from error
    return model.to('cuda' if torch.cuda.is_available() else 'cpu').eval()


class _Extractor:
    """One forward pass of a classifier: the features that its classifier reads, the labels, and the predictions."""

    def __init__(self, model: nn.Module, config: str) -> None:
        self.model, self.config = model, config
        self.layer = LastLayer(model)
        self.map = self.layer.linear_map()

    def __call__(self, batch: dict, predict: bool) -> tuple[Tensor, Tensor, list]:
        batch = self.model.data_preprocessor(batch, False)
        inputs, samples = batch['inputs'], batch['data_samples']
        predictions = []
        if predict:
            predictions = self.model.predict(inputs, samples)
        else:
            self.model(inputs, mode='tensor')
        try:
            features = self.layer.features()
        except ValueError as error:
            raise ValueError(f'{self.config}: {error}') from error
        dim = self.map[0].size(1)
        if features.size(1) != dim:
            raise ValueError(f'{self.config}: the features that the classifier reads have length {features.size(1)}, '
                             f'but its vectors {dim}; only a linear classifier can be shown beside its features.')
        labels = torch.cat([sample.gt_label for sample in samples]).cpu()
        if len(labels) != len(features):
            raise ValueError(f'{self.config}: {len(features)} images have {len(labels)} labels; exactly one label an '
                             'image is needed.')
        return features.cpu(), labels, predictions


class _Sample:
    """The first images of some classes, at most ``SAMPLES_PER_CLASS`` of each."""

    def __init__(self, classes: Sequence[int]) -> None:
        self.room = {int(k): SAMPLES_PER_CLASS for k in classes}
        self.features: list[Tensor] = []
        self.labels: list[int] = []

    def add(self, features: Tensor, labels: Tensor) -> None:
        for row, label in enumerate(labels.tolist()):
            if self.room.get(label, 0):
                self.room[label] -= 1
                self.features.append(features[row].float().clone())
                self.labels.append(label)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        features = torch.stack(self.features).numpy() if self.features else np.zeros((0, 0), dtype=np.float32)
        return features, np.asarray(self.labels, dtype=np.int64)


def story_classes(num_per_class: Sequence[int]) -> list[int]:
    """The largest class and the two rarest ones that have images: three classes show the angles of a plane exactly."""
    order = np.argsort(-np.asarray(num_per_class), kind='stable')
    order = [int(k) for k in order if num_per_class[k] > 0]
    return order if len(order) < 3 else [order[0], *order[-2:]]


def choose_classes(wanted: Sequence[str], names: Sequence[str], num_classes: int) -> list[int]:
    """Indices of classes that are given by name or number.

    Raises:
        ValueError: for a class that does not exist, one given twice, or fewer than two.
    """
    names = list(names)
    chosen = []
    for item in wanted:
        if item in names:
            chosen.append(names.index(item))
        elif str(item).isdigit() and int(item) < num_classes:
            chosen.append(int(item))
        else:
            raise ValueError(f'--classes: there is no class {item!r}; give names or numbers from 0 to '
                             f'{num_classes - 1}' + (f', such as {", ".join(names[:3])}.' if names else '.'))
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise ValueError(f'--classes needs at least two different classes, but got {" ".join(map(str, wanted))}.')
    return chosen


def evaluate_run(work_dir: str, label: str | None = None, groups=None, first: Run | None = None, progress=None,
                 cfg_options: dict | None = None) -> Run:
    """Evaluate the last checkpoint of a run: :func:`evaluate_checkpoint` of what :func:`find_run` finds.

    Args:
        work_dir (str): The folder that ``tools/train.py`` wrote.
        label, groups, first, progress, cfg_options: As in :func:`evaluate_checkpoint`; the label defaults to the
            folder's name.

    Returns:
        Run: The run.
    """
    config, checkpoint, log = find_run(work_dir)
    run = evaluate_checkpoint(config, checkpoint, label or os.path.basename(os.path.normpath(work_dir)), groups, first,
                              progress, cfg_options)
    run.work_dir, run.log = work_dir, log
    return run


@torch.no_grad()
def evaluate_checkpoint(config: str,
                        checkpoint: str,
                        label: str | None = None,
                        groups=None,
                        first: Run | None = None,
                        progress=None,
                        cfg_options: dict | None = None,
                        classes: Sequence[str] | None = None) -> Run:
    """Load a checkpoint, pass once over the training and once over the test images, and collect what is shown.

    Works for the models of mmpretrain with a linear classifier and one label an image. Features are what the classifier
    reads (:class:`LastLayer`), in evaluation mode; those of the training set without augmentation.
    They are kept in memory for the measures that need the final class means, up to ``KEPT_BYTES``; a larger training
    set is passed twice.

    Args:
        config (str): Path of the config.
        checkpoint (str): Path of the checkpoint.
        label (str, optional): Name of the run. Defaults to the name of the checkpoint's folder.
        groups (str | Sequence, optional): As in :class:`LongTailMetric`; by default those of ``first``, else those of
            the run's config, else 'A'.
        first (Run, optional): A run on the same data, with which this one will be compared.
        progress (rich.progress.Progress, optional): Where to show the progress.
        cfg_options (dict, optional): Overrides of the run's config, as in ``{'test_dataloader.dataset.split': 'val'}``.
        classes (Sequence[str], optional): Names or numbers of the classes whose features are kept. Defaults to
            :func:`story_classes`.

    Returns:
        Run: The run.

    Raises:
        FileNotFoundError: without config or checkpoint.
        ValueError: if the model is no classifier, does not fit its checkpoint or data, or the data are not ``first``'s.
    """
    for what, path in (('Config', config), ('Checkpoint', checkpoint)):
        if not os.path.isfile(path):
            raise FileNotFoundError(f'{what} {path} does not exist.')
    work_dir = os.path.dirname(os.path.abspath(checkpoint))
    label = label or os.path.basename(work_dir)
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(cfg_options or {})
    model = build_model(cfg)
    test_loader, train_loader = _loaders(cfg, config)
    if not hasattr(model, 'extract_feat') or not hasattr(model, 'predict'):
        raise ValueError(f'{config}: {type(model).__name__} is no classifier with `extract_feat` and `predict`; only '
                         'classification runs can be compared.')
    num_classes = len(_Extractor(model, config).map[0])  # before any work is done
    dataset = train_loader.dataset
    names = list(dataset.metainfo.get('classes') or ())
    # a wrapper has the metainfo of (the first of) what it wraps
    counts = np.bincount(read_labels(dataset, 'A report'), minlength=len(names) or num_classes).tolist()
    if first is not None:
        _check_same_data(first, work_dir, counts, len(test_loader.dataset))
        groups = list(first.groups.values()) if groups is None else groups
    if len(counts) != num_classes:
        raise ValueError(f'{config}: the head has {num_classes} classes, but the training set has {len(counts)}; set '
                         f'model.head.num_classes={len(counts)}.')
    chosen = story_classes(counts) if classes is None else choose_classes(classes, names, num_classes)
    metric = LongTailMetric(groups=_groups_setting(cfg) if groups is None else groups, num_per_class=counts)
    model = _trained(model, checkpoint, config)
    extract = _Extractor(model, config)
    weight, bias = (None if part is None else part.detach().cpu().double() for part in extract.map)

    def batches(loader, what, predict=False):
        task = progress.add_task(escape(f'{label}: {what}'), total=len(loader)) if progress else None
        for batch in loader:
            yield (batch, *extract(batch, predict))
            if progress:
                progress.advance(task)

    train = _statistics(lambda what: batches(train_loader, what), weight, bias, chosen)
    if train is None:
        raise ValueError(f'{config}: the training set is empty; check its data_root.')
    stats, unit_stats, second, train_sample = train

    test_sample, nearest = _Sample(chosen), SecondPass(stats)
    for batch, features, labels, predictions in batches(test_loader, 'test images', predict=True):
        metric.process(batch, [sample.to_dict() for sample in predictions])
        nearest.update(features, labels)
        test_sample.add(features, labels)
    labels, predicted, confidence = (np.asarray(column) for column in zip(*metric.results))
    bins = calibration_bins(torch.from_numpy(confidence), torch.from_numpy(predicted == labels), metric.num_bins)
    metrics = {key.split('/')[-1]: value for key, value in metric.evaluate(len(test_loader.dataset)).items()}

    run = Run(label, work_dir, config, checkpoint, _find_log(work_dir), metric.num_per_class, metric.class_groups,
              len(test_loader.dataset), metrics, metric.per_class, {}, classes=names, bins=bins.numpy(),
              curves=read_curves(work_dir))
    means = stats.class_means()
    for name, vectors in (('classifier', weight), ('means', means)):
        run.cosines[name] = pairwise_cosines(vectors).float().numpy()
        run.vectors[name] = vectors.float().numpy()
    run.samples = dict(train=train_sample.arrays(), test=test_sample.arrays())
    run.measures, run.reasons = collapse_measures(
        stats, weight, second=second, unit_stats=unit_stats, num_per_class=metric.num_per_class,
        groups={name: index.tolist() for name, index in run.groups.items()}, tail=run.tail)
    run.measures['ncc_accuracy_test'] = float(nearest.correct.sum() / nearest.counts.sum())
    metrics.update(
        nc1=run.measures['nc1'],
        std_cos_means=equiangularity(means),
        std_cos_classifier=equiangularity(weight),
        tail_cosine=group_cosine(weight, run.tail, center=True),
        minority_collapse_index=run.measures['mci'],
        self_duality=run.measures['nc3'])
    return run


def _statistics(batches: Callable[[str], Iterable], weight: Tensor, bias: Tensor | None, chosen: Sequence[int]):
    """Class statistics of features and of unit features, the second pass with final means, and a sample."""
    shape = tuple(weight.shape)
    stats, unit_stats, sample = ClassStatistics(*shape), ClassStatistics(*shape), _Sample(chosen)
    kept: list | None = []
    size = 0
    for _, features, labels, _ in batches('training images'):
        stats.update(features, labels)
        unit_stats.update_directions(features, labels)
        sample.add(features, labels)
        size += features.numel() * features.element_size()
        if kept is not None:
            kept.append((features, labels))
            kept = kept if size <= KEPT_BYTES else None
    if not int(stats.counts.sum()):
        return None
    second = SecondPass(stats, weight, bias)
    again = kept if kept is not None else (item[1:3] for item in batches('training images, again'))
    for features, labels in again:
        second.update(features, labels)
    return stats, unit_stats, second, sample
