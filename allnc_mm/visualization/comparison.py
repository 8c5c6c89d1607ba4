"""Finished runs beside each other: accuracy of every class, calibration and geometry, as a table and a picture."""
import copy
import glob
import json
import math
import os
from dataclasses import dataclass, field

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from rich.table import Table
from torch import Tensor, nn

from ..engine.launch import latest_checkpoint
from ..evaluation import LongTailMetric
from ..functional.collapse import (
    ClassStatistics,
    equiangularity,
    group_cosine,
    minority_collapse_index,
    pairwise_cosines,
    self_duality,
)
from ..registry import MODELS

MAX_BYTES = 200_000
# Okabe and Ito's palette: told apart by every kind of colour vision.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000', '#F0E442')


@dataclass
class Run:
    """What is compared of a finished run.

    Attributes:
        label (str): Name in table and picture.
        work_dir, config, checkpoint, log (str): Where it comes from.
        num_per_class (np.ndarray): Training images of each class, (K,).
        groups (dict[str, np.ndarray]): Class indices of 'many', 'medium' and 'few'.
        num_test (int): Number of test images.
        metrics (dict[str, float]): Of :class:`LongTailMetric`, in percent, and of the geometry.
        per_class (np.ndarray): Test accuracy of each class in percent, (K,).
        cosines (dict[str, np.ndarray]): (K, K) centred cosines of 'classifier' vectors and class 'means'.
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

    @property
    def num_classes(self) -> int:
        return len(self.num_per_class)


def _newest(pattern: str) -> str | None:
    return max(glob.glob(pattern), key=os.path.getmtime, default=None)


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
    config = _newest(os.path.join(work_dir, '*.py'))
    if config is None:
        raise FileNotFoundError(f'{work_dir} holds no config (*.py), which every run dumps there; give the work_dir of '
                                'a run of tools/train.py, not one of its subfolders.')
    checkpoint = latest_checkpoint(work_dir)
    if checkpoint is None:
        raise FileNotFoundError(f'{work_dir} holds no checkpoint; let the run finish: tools/train.py {config}.')
    return config, checkpoint, _newest(os.path.join(work_dir, '*', '*.log')) or work_dir


def classifier_weight(head: nn.Module) -> Tensor:
    """Classifier vectors (K, d) of a head: its ``classifier_weight``, its ``fc``, or its only map onto K classes.

    Raises:
        ValueError: if there is none.
    """
    weight = getattr(head, 'classifier_weight', None)
    if weight is None:
        weight = getattr(getattr(head, 'fc', None), 'weight', None)
    elif callable(weight) and not isinstance(weight, Tensor):
        weight = weight()
    if weight is None:
        linear = [m.weight for m in head.modules()
                  if isinstance(m, nn.Linear) and m.out_features == getattr(head, 'num_classes', None)]
        weight = linear[0] if len(linear) == 1 else None
    if weight is None:
        raise ValueError(f'{type(head).__name__} has no linear classifier to compare: neither a `classifier_weight` '
                         '(K, d), nor an `fc`, nor exactly one nn.Linear with num_classes outputs.')
    return weight.detach().cpu().double()


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

    def innermost(dataset):
        # wrappers (repeated, class-balanced, ...) only change how often an image is seen
        while 'dataset' in dataset:
            dataset = dataset['dataset']
        return dataset

    train = copy.deepcopy(test)
    train['dataset'] = copy.deepcopy(innermost(cfg.train_dataloader['dataset']))
    train['dataset']['pipeline'] = copy.deepcopy(innermost(test['dataset']).get('pipeline', []))
    return Runner.build_dataloader(test), Runner.build_dataloader(train)


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


def _class_means(model: nn.Module, batches, num_classes: int, config: str) -> Tensor:
    stats = None
    for batch in batches:
        batch = model.data_preprocessor(batch, False)
        features = model.extract_feat(batch['inputs'])
        features = features[-1] if isinstance(features, (tuple, list)) else features
        if features.dim() != 2:
            raise ValueError(f'{config}: the input of the head has shape {tuple(features.shape)}, but one vector an '
                             'image is needed; add a neck such as GlobalAveragePooling.')
        if stats is None:
            stats = ClassStatistics(num_classes, features.size(1), scatter=False)
        stats.update(features.cpu(), torch.cat([sample.gt_label for sample in batch['data_samples']]).cpu())
    if stats is None:
        raise ValueError(f'{config}: the training set is empty; check its data_root.')
    return stats.class_means()


def build_model(cfg: Config) -> nn.Module:
    """The model of a config, as the Runner would build it, without weights."""
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    model_cfg = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor'):
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    return MODELS.build(model_cfg)


@torch.no_grad()
def evaluate_run(work_dir: str,
                 label: str | None = None,
                 groups=None,
                 first: Run | None = None,
                 progress=None,
                 cfg_options: dict | None = None) -> Run:
    """Load the last checkpoint of a run, test it once, and collect its geometry on the training images.

    Works for the classifiers of mmpretrain that have a backbone and a linear head. Class means are those of the head's
    input, on the training set without augmentation and in evaluation mode.

    Args:
        work_dir (str): The folder that ``tools/train.py`` wrote.
        label (str, optional): Name of the run. Defaults to the folder's name.
        groups (str | Sequence, optional): As in :class:`LongTailMetric`; by default those of ``first``, else those of
            the run's config, else 'A'.
        first (Run, optional): A run on the same data, with which this one will be compared.
        progress (rich.progress.Progress, optional): Where to show the progress.
        cfg_options (dict, optional): Overrides of the run's config, as in ``{'test_dataloader.dataset.split': 'val'}``.

    Returns:
        Run: The run.

    Raises:
        FileNotFoundError: without work_dir, config or checkpoint.
        ValueError: if the model is no classifier, does not fit its checkpoint or data, or the data are not ``first``'s.
    """
    config, checkpoint, log = find_run(work_dir)
    label = label or os.path.basename(os.path.normpath(work_dir))
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(cfg_options or {})
    model = build_model(cfg)
    test_loader, train_loader = _loaders(cfg, config)
    if not hasattr(model, 'extract_feat') or not hasattr(model, 'head'):
        raise ValueError(f'{config}: {type(model).__name__} is no classifier with `extract_feat` and `head`; only '
                         'classification runs can be compared.')
    weight = classifier_weight(model.head)  # its shape, before any work is done
    num_classes = len(weight)
    dataset = train_loader.dataset
    counts = dataset.metainfo.get('num_per_class')
    if counts is None:
        named = len(dataset.metainfo.get('classes') or ())
        counts = np.bincount(dataset.get_gt_labels(), minlength=named or num_classes)
    counts = [int(n) for n in counts]
    if first is not None:
        _check_same_data(first, work_dir, counts, len(test_loader.dataset))
        groups = list(first.groups.values()) if groups is None else groups
    if len(counts) != num_classes:
        raise ValueError(f'{config}: the head has {num_classes} classes, but the training set has {len(counts)}; set '
                         f'model.head.num_classes={len(counts)}.')
    try:
        load_checkpoint(model, checkpoint, map_location='cpu', strict=True, logger='silent')
    except RuntimeError as error:
        raise ValueError(f'{checkpoint} does not fit the model of {config}, the newest config in its folder: '
                         f'{error}') from error
    weight = classifier_weight(model.head)
    model = model.to('cuda' if torch.cuda.is_available() else 'cpu').eval()

    def batches(loader, what):
        task = progress.add_task(f'{label}: {what}', total=len(loader)) if progress else None
        for batch in loader:
            yield batch
            if progress:
                progress.advance(task)

    metric = LongTailMetric(groups=_groups_setting(cfg) if groups is None else groups, num_per_class=counts)
    for batch in batches(test_loader, 'test images'):
        metric.process(batch, [sample.to_dict() for sample in model.test_step(batch)])
    metrics = metric.evaluate(len(test_loader.dataset))
    metrics = {key.split('/')[-1]: value for key, value in metrics.items()}

    means = _class_means(model, batches(train_loader, 'training images'), num_classes, config)

    tail = metric.class_groups['few']
    if len(tail) < 2:  # of data without a few-shot group: the half of the classes with the fewest images
        tail = np.argsort(metric.num_per_class, kind='stable')[:max(num_classes // 2, 2)]
    metrics.update(
        std_cos_means=equiangularity(means),
        std_cos_classifier=equiangularity(weight),
        tail_cosine=group_cosine(weight, tail, center=True),
        minority_collapse_index=minority_collapse_index(weight, metric.num_per_class, tail),
        self_duality=self_duality(weight, means) if weight.shape == means.shape else math.nan)
    return Run(label, work_dir, config, checkpoint, log, metric.num_per_class, metric.class_groups,
               len(test_loader.dataset), metrics, metric.per_class,
               dict(classifier=pairwise_cosines(weight).numpy(), means=pairwise_cosines(means).numpy()))


def comparison_table(runs: list[Run]) -> Table:
    """A table for the terminal: one row a measure, one column a run, the best of each row in bold."""
    first = runs[0]
    optimum = -1 / (first.num_classes - 1)

    def group(name):
        counts = first.num_per_class[first.groups[name]]
        if not len(counts):
            return f'  {name}-shot classes (none)'
        bounds = f'{counts.min()}' if counts.min() == counts.max() else f'{counts.max()} to {counts.min()}'
        return f'  {name}-shot: {len(counts)} class{"es" * (len(counts) > 1)} with {bounds} images'

    high, low = '100', '0'
    rows = [  # name, words, what is best in words, distance from the best, format
        ('overall', 'Accuracy on all test images, %', high, lambda v: -v, '.1f'),
        ('many', group('many'), high, lambda v: -v, '.1f'),
        ('medium', group('medium'), high, lambda v: -v, '.1f'),
        ('few', group('few'), high, lambda v: -v, '.1f'),
        ('worst_class', '  the worst class', high, lambda v: -v, '.1f'),
        ('ece', 'Calibration error of the confidence, %', low, abs, '.1f'),
        ('std_cos_means', 'Angles between class means: spread of cosines', low, abs, '.3f'),
        ('std_cos_classifier', 'Angles between classifier vectors: spread', low, abs, '.3f'),
        ('tail_cosine', '  cosine between those of the rarest classes', f'{optimum:.3f}',
         lambda v: abs(v - optimum), '+.3f'),
    ]
    table = Table(title='Best of each row in bold', title_style='dim', title_justify='left')
    table.add_column('')
    for run in runs:
        table.add_column(run.label, justify='right', overflow='fold')
    table.add_column('ideal', justify='right', style='dim')
    for name, words, best, distance, form in rows:
        values = [run.metrics[name] for run in runs]
        # as displayed: what looks equal is equally good
        distances = [distance(float(f'{value:{form}}')) for value in values]
        smallest = min((d for d in distances if not math.isnan(d)), default=math.nan)
        cells = ['-' if math.isnan(v) else f'[bold]{v:{form}}[/]' if d == smallest and len(runs) > 1 else f'{v:{form}}'
                 for v, d in zip(values, distances)]
        table.add_row(words, *cells, best, end_section=name in ('worst_class', 'ece'))
    return table


def save_json(runs: list[Run], path: str) -> None:
    """Write all numbers; undefined ones are null."""

    def plain(value):
        if isinstance(value, np.ndarray):
            return plain(value.tolist())
        if isinstance(value, dict):
            return {key: plain(v) for key, v in value.items()}
        if isinstance(value, list):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    first = runs[0]
    content = dict(
        num_per_class=first.num_per_class, groups=first.groups, num_test=first.num_test,
        optimal_cosine=-1 / (first.num_classes - 1),
        runs=[dict(label=run.label, work_dir=run.work_dir, config=run.config, checkpoint=run.checkpoint, log=run.log,
                   metrics=run.metrics, accuracy_per_class=run.per_class) for run in runs])
    with open(path, 'w') as file:
        json.dump(plain(content), file, indent=1)


def draw_comparison(runs: list[Run], path: str) -> None:
    """Draw accuracy over the classes, and the pairwise cosines of classifier vectors and class means, head to tail.

    Args:
        runs (list[Run]): One to eight runs on the same data.
        path (str): Of the PNG file, kept below 200 KB.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure
    from PIL import Image

    first = runs[0]
    order = np.argsort(-first.num_per_class, kind='stable')
    optimum = -1 / (first.num_classes - 1)
    rows, columns = (2, len(runs)) if len(runs) > 1 else (1, 2)
    figure = Figure(figsize=(2.9 * columns + 1.4, 3.2 + 3 * rows), layout='constrained')
    FigureCanvasAgg(figure)  # no pyplot: no window and no global state
    figure.get_layout_engine().set(h_pad=.08, w_pad=.06)
    top, bottom = figure.subfigures(2, 1, height_ratios=[3, 2.8 * rows])
    _draw_accuracy(top.subplots(), runs, order)

    # White is the optimum, so that a simplex is a white square; red pairs are too close, blue ones too far apart.
    norm = TwoSlopeNorm(vmin=min(-1, optimum - .01), vcenter=optimum, vmax=1)  # two classes: the optimum is -1
    axes = bottom.subplots(rows, columns).ravel()
    # more than one class change of the group in the order of the counts only happens with hand-made groups
    names = np.full(first.num_classes, 'none', dtype=object)
    for name, index in first.groups.items():
        names[index] = name
    borders = np.flatnonzero(names[order][1:] != names[order][:-1]) + .5
    borders = borders if len(borders) <= 2 else []
    for row, (kind, title, spread) in enumerate([('classifier', 'classifier vectors', 'std_cos_classifier'),
                                                 ('means', 'class means', 'std_cos_means')]):
        for column, run in enumerate(runs):
            axis = axes[row * len(runs) + column]
            cosines = run.cosines[kind][np.ix_(order, order)].copy()
            np.fill_diagonal(cosines, np.nan)  # of a class with itself
            axis.set_facecolor('#bbbbbb')
            image = axis.imshow(cosines, cmap='RdBu_r', norm=norm, interpolation='nearest')
            for border in borders:
                axis.axhline(border, color='black', lw=.8)
                axis.axvline(border, color='black', lw=.8)
            note = f'spread {run.metrics[spread]:.3f}'
            if kind == 'classifier':
                note += f', tail pairs {run.metrics["tail_cosine"]:+.2f}'
            name = run.label if len(run.label) <= 26 else f'{run.label[:25]}\u2026'
            axis.set_title(f'{name}\n', fontsize=10, fontweight='bold')
            if column == 0:
                axis.set_ylabel(title, fontsize=10, fontweight='bold', labelpad=-10)
            axis.text(.5, 1.02, note, transform=axis.transAxes, ha='center', va='bottom', fontsize=9)
            axis.set_xticks([0, first.num_classes - 1], ['head', 'tail'])
            axis.set_yticks([0, first.num_classes - 1], ['head', 'tail'] if column == 0 else ['', ''])
            axis.tick_params(length=0, labelsize=9)
    bar = bottom.colorbar(image, ax=axes.tolist(), fraction=.03, pad=.02, aspect=20 * rows)
    ticks = [t for t in (-1, -.5, 0, .5, 1) if abs(t - optimum) > .2]
    bar.set_ticks([*ticks, optimum], labels=[*(f'{t:g}' for t in ticks), f'{optimum:.2f}\noptimum'])
    bar.ax.get_yticklabels()[-1].set_fontweight('bold')
    bar.ax.tick_params(labelsize=9)
    bar.ax.axhline(optimum, color='black', lw=2)
    bar.set_label('cosine of two classes:\nwhite is the simplex, red too close', fontsize=9)

    for dpi in (120, 90, 60):
        figure.savefig(path, dpi=dpi, facecolor='white')
        if os.path.getsize(path) >= MAX_BYTES:  # heat maps of many classes compress badly
            with Image.open(path) as picture:
                palette = picture.convert('RGB').quantize(256, dither=Image.Dither.NONE)
            palette.save(path, optimize=True)
        if os.path.getsize(path) < MAX_BYTES:
            break


def _draw_accuracy(axis, runs: list[Run], order: np.ndarray) -> None:
    first = runs[0]
    num_classes = first.num_classes
    counts = first.num_per_class[order]
    position = np.arange(num_classes)
    images = axis.twinx()
    images.fill_between(np.r_[-.5, np.repeat(position[1:] - .5, 2), num_classes - .5],
                        np.repeat(np.maximum(counts, .8), 2), .7, color='#e4e4e4', lw=0)
    images.set_yscale('log')
    images.set_ylim(.7, counts.max() * 1.3)
    images.set_ylabel('training images (grey)', color='#666666', fontsize=9)
    images.tick_params(colors='#666666', labelsize=8)
    axis.set_zorder(images.get_zorder() + 1)
    axis.patch.set_visible(False)

    bars = num_classes <= 20
    for i, run in enumerate(runs):
        color = COLORS[i % len(COLORS)]
        accuracy = run.per_class[order]
        label = f'{run.label}: {run.metrics["overall"]:.1f} % overall'
        if bars:
            width = .8 / len(runs)
            axis.bar(position + (i - (len(runs) - 1) / 2) * width, accuracy, .92 * width, color=color, label=label)
        else:  # single classes are noisy: dots, and a running mean over a fifteenth of them
            window = max(num_classes // 15, 3)
            padded = np.pad(accuracy, window // 2, constant_values=np.nan)
            smooth = [np.nanmean(part) if not np.isnan(part).all() else np.nan
                      for part in np.lib.stride_tricks.sliding_window_view(padded, 2 * (window // 2) + 1)]
            axis.plot(position, accuracy, '.', ms=3, color=color, alpha=.35)
            axis.plot(position, smooth, lw=2, color=color, label=label)
    if bars:
        axis.set_xticks(position, [str(n) for n in counts])
    else:
        ticks = np.unique(np.linspace(0, num_classes - 1, 8).round().astype(int))
        axis.set_xticks(ticks, [str(counts[t]) for t in ticks])
    axis.set_xlim(-.6, num_classes - .4)
    axis.set_ylim(0, 100)
    axis.set_xlabel('training images of each class, from head to tail', fontsize=9)
    axis.set_ylabel('test accuracy, %', fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(axis='y', color='#cccccc', lw=.5)
    axis.set_axisbelow(True)
    for side in ('top', 'left', 'right'):
        axis.spines[side].set_visible(False)
        images.spines[side].set_visible(False)
    axis.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=min(len(runs), 4), frameon=False, fontsize=10)
