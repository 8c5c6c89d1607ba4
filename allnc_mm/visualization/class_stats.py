"""How the classes of a training set are distributed: counts, imbalance and groups, as a table, a picture and a JSON."""
import copy
import json
import math
import os
from dataclasses import dataclass

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from rich.markup import escape
from rich.table import Table

from ..fileio import whole_file
from ..functional.longtail import gini, group_by_share, group_classes, imbalance_factor
from ..registry import DATASETS

# of Okabe and Ito's palette: told apart by every kind of colour vision, and by lightness
COLORS = ('#0072B2', '#E69F00', '#CC79A7')
SHOWN = 40  # classes of a table and names of a picture


@dataclass
class ClassStats:
    """Class counts of a training set.

    Attributes:
        config (str): Where it comes from.
        unit (str): What is counted, 'images' or 'pixels'.
        classes (list[str]): Names of the classes, their numbers where they have none.
        num_per_class (list[int]): K counts.
        groups (dict[str, list[int]]): Class indices of three groups.
        convention (str): How the groups are made.
    """
    config: str
    unit: str
    classes: list[str]
    num_per_class: list[int]
    groups: dict[str, list[int]]
    convention: str

    def to_dict(self) -> dict:
        """Content of the JSON file; an infinite imbalance factor is null."""
        factor = imbalance_factor(self.num_per_class)
        return dict(config=self.config, unit=self.unit, num_classes=len(self.num_per_class),
                    total=sum(self.num_per_class), imbalance_factor=factor if math.isfinite(factor) else None,
                    gini=gini(self.num_per_class), convention=self.convention, groups=self.groups, classes=self.classes,
                    num_per_class=self.num_per_class)


def _parts(dataset) -> list:
    """The data sets below all wrappers, which only join them or change how often an image is seen."""
    if hasattr(dataset, 'datasets'):
        return [leaf for part in dataset.datasets for leaf in _parts(part)]
    return _parts(dataset.dataset) if hasattr(dataset, 'dataset') else [dataset]


def _labels(dataset) -> np.ndarray:
    """Labels of all images, all of them where an image has several."""
    try:
        labels = [dataset.get_data_info(i)['gt_label'] for i in range(len(dataset))]
    except (AttributeError, KeyError) as error:
        raise TypeError(f'{type(dataset).__name__} has no labels that can be counted: neither a gt_label nor a '
                        'seg_map_path in its annotations; use one for classification or segmentation.') from error
    return np.concatenate([np.asarray(label, dtype=np.int64).reshape(-1) for label in labels])


def _is_segmentation(dataset) -> bool:
    info = dataset.get_data_info(0) if hasattr(dataset, 'get_data_info') else {}
    return 'seg_map_path' in info or 'gt_seg_map' in info


def class_stats(config: str, groups=None, cfg_options: dict | None = None) -> ClassStats:
    """Count the training set of a config: images, or for segmentation labelled pixels (without ``ignore_index``).

    Args:
        config (str): Path of the config.
        groups (str | Sequence, optional): 'A', 'B', three sizes or three lists, as in :func:`group_classes`. Defaults
            to None: 'A' for images; for pixels head, middle and tail of :func:`group_by_share`.
        cfg_options (dict, optional): Overrides of the config.

    Returns:
        ClassStats: The counts.

    Raises:
        FileNotFoundError: without the config or the data.
        TypeError: for a data set without labels.
        ValueError: without a training set, for one without images, or labels out of range.
    """
    if not os.path.isfile(config):
        raise FileNotFoundError(f'Config {config} does not exist; give the path of a .py file, e.g. of configs/.')
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(cfg_options or {})
    if not cfg.get('train_dataloader'):
        raise ValueError(f'{config} has no train_dataloader, so there is no training set to count.')
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    dataset = DATASETS.build(copy.deepcopy(cfg.train_dataloader['dataset']))
    if not len(dataset):
        raise ValueError(f'{config}: the training set is empty; check its data_root.')
    names = list(dataset.metainfo.get('classes') or ())
    parts = _parts(dataset)
    if _is_segmentation(parts[0]):
        from ..segmentation.datasets.pixel_counts import pixel_counts
        unit, counts = 'pixels', sum(pixel_counts(part).sum(0) for part in parts)
    else:
        labels = np.concatenate([_labels(part) for part in parts])
        num_classes = len(names or dataset.metainfo.get('num_per_class') or ()) or int(labels.max()) + 1
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(f'{config}: the labels run from {labels.min()} to {labels.max()}, but the metainfo names '
                             f'{num_classes} classes; make them agree.')
        unit, counts = 'images', np.bincount(labels, minlength=num_classes)
    counts = [int(n) for n in counts]
    if groups is None and unit == 'pixels':
        found, convention = group_by_share(counts), 'head >= 1/K of the pixels, tail < 0.2/K'
    else:
        groups = 'A' if groups is None else groups
        found = group_classes(counts, groups)
        rules = dict(A='many > 100, 20 <= medium <= 100, few < 20', B='many >= 100, 20 < medium < 100, few <= 20')
        convention = rules[groups] if isinstance(groups, str) else 'explicit groups'
    return ClassStats(config, unit, [str(name) for name in names] or [str(k) for k in range(len(counts))], counts,
                      found, convention)


def stats_table(stats: ClassStats) -> Table:
    """A table for the terminal: the classes from head to tail, those in the middle left out where they are many."""
    counts = np.asarray(stats.num_per_class)
    order = np.argsort(-counts, kind='stable').tolist()
    group_of = {k: name for name, members in stats.groups.items() for k in members}
    factor = imbalance_factor(counts)
    sizes = ', '.join(f'{len(members)} {name}' for name, members in stats.groups.items())
    table = Table(title=f'{counts.sum():,} {stats.unit} in {len(counts)} classes; imbalance factor '
                  f'{factor:,.4g}, Gini {gini(counts):.3f}', title_justify='left',
                  caption=f'{sizes} ({stats.convention})', caption_justify='left')
    table.add_column('class', overflow='fold')
    for name in (stats.unit, 'share', 'group'):
        table.add_column(name, justify='left' if name == 'group' else 'right')
    table.add_column('')
    for place, k in enumerate(order):
        if len(order) > SHOWN and place == SHOWN // 2:
            table.add_row(f'... {len(order) - SHOWN} more classes ...', '', '', '', '')
        if len(order) <= SHOWN or place < SHOWN // 2 or place >= len(order) - SHOWN // 2:
            bar = '█' * max(round(24 * counts[k] / counts.max()), int(counts[k] > 0))
            name = stats.classes[k] if stats.classes[k] == str(k) else f'{k} {stats.classes[k]}'
            table.add_row(escape(name), f'{counts[k]:,}', f'{100 * counts[k] / counts.sum():.3g} %', group_of[k], bar)
    return table


def save_stats(stats: ClassStats, path: str) -> None:
    """Write the JSON that the ``num_per_class`` settings of metrics and losses accept as a path."""
    with whole_file(path) as part, open(part, 'w') as file:
        json.dump(stats.to_dict(), file, indent=1)


def draw_stats(stats: ClassStats, path: str) -> None:
    """Draw the counts from head to tail on a logarithmic axis, coloured by group.

    Args:
        stats (ClassStats): The counts.
        path (str): Of the PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.asarray(stats.num_per_class)
    order = np.argsort(-counts, kind='stable')
    place = np.empty(len(counts), dtype=int)
    place[order] = np.arange(len(counts))
    named = len(counts) <= SHOWN
    long = max(map(len, stats.classes)) > 2
    figure = Figure(figsize=(8, 4.2), layout='constrained')
    FigureCanvasAgg(figure)  # no pyplot: no window and no global state
    axis = figure.subplots()
    floor = max(counts[counts > 0].min() / 3, .5)
    for (name, members), color in zip(stats.groups.items(), COLORS):
        members = np.asarray(members, dtype=int)
        share = counts[members].sum() / counts.sum()
        label = f'{name}: {len(members)} class{"es" * (len(members) != 1)}, {100 * share:.3g} %'
        axis.bar(place[members], np.maximum(counts[members], floor) - floor, .85 if named else 1., floor, color=color,
                 label=label)
    axis.set_yscale('log')
    axis.set_ylim(floor, counts.max() * 1.5)
    axis.set_xlim(-.6, len(counts) - .4)
    axis.set_ylabel(f'training {stats.unit}')
    factor = imbalance_factor(counts)
    axis.set_title(f'{counts.sum():,} {stats.unit}, {len(counts)} classes: imbalance factor {factor:,.4g}, '
                   f'Gini {gini(counts):.3f}', loc='left', fontsize=11, pad=26)
    if named:
        axis.set_xticks(range(len(counts)), [stats.classes[k][:18] for k in order],
                        fontsize=8, **(dict(rotation=60, ha='right', rotation_mode='anchor') if long else {}))
        for k, count in enumerate(counts[order]):
            axis.annotate(f'{count:,}' if count < 10_000 else f'{count:.1e}'.replace('e+0', 'e'),
                          (k, max(count, floor)), (0, 2), textcoords='offset points', ha='center', fontsize=7)
    else:
        axis.set_xlabel('classes, from head to tail')
    axis.grid(axis='y', color='#cccccc', lw=.5)
    axis.set_axisbelow(True)
    for side in ('top', 'right'):
        axis.spines[side].set_visible(False)
    axis.legend(frameon=False, fontsize=9, ncols=3, handlelength=1.2, loc='lower left', bbox_to_anchor=(0, 1),
                borderaxespad=.1)
    with whole_file(path) as part:
        figure.savefig(part, dpi=120, facecolor='white', format='png')
