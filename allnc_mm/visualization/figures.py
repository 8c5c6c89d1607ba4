"""Pictures of finished runs. Each function takes :class:`Run` objects and returns a matplotlib figure.

All of them avoid pyplot (no window, no global state), tell runs apart by colours that every kind of colour vision
separates and by markers, and exist in a wide form for a desktop and a narrow one for a phone.
"""
import functools
import io
import itertools
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from ..fileio import whole_file
from .runs import Run

# Okabe and Ito's palette, the pale ones last
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000', '#8C564B')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*')
INK, GREY, PALE = '#1f2933', '#5f6b76', '#e4e7eb'
STYLE = {
    'font.size': 9, 'axes.titlesize': 10, 'axes.labelsize': 9, 'xtick.labelsize': 8, 'ytick.labelsize': 8,
    'legend.fontsize': 9, 'legend.frameon': False, 'text.color': INK, 'axes.labelcolor': INK,
    'axes.edgecolor': '#9aa5b1', 'axes.linewidth': .8, 'axes.spines.top': False, 'axes.spines.right': False,
    'axes.axisbelow': True, 'xtick.color': INK, 'ytick.color': INK, 'grid.color': PALE, 'grid.linewidth': .8,
    'lines.linewidth': 1.8, 'hatch.linewidth': .6,
}
MANY_CLASSES = 20  # above, single classes are dots and a running mean instead of bars
PALETTE_BYTES = 100_000
MAX_CELLS = 200  # of a heat map in each direction; more classes are averaged in blocks
ANGLE_RANGE = 45  # degrees around the optimum that the colours of a heat map span
NC_PREFIX = 'neural_collapse_train'  # of NeuralCollapseHook
KINDS = dict(classifier='classifier vectors', means='class means')
GROUP_COLORS = dict(many='#334155', medium='#7b8a9a', few='#b9c4cf')  # greys: the colours belong to the runs


def styled(draw):
    """Decorator of the functions that draw: the look of the report, without touching the global one."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def png_bytes(figure: Figure, dpi: int = 150, max_bytes: int | None = None) -> bytes:
    """A figure as PNG; a palette of 256 colours replaces true colours where that would take more than 100 KB.

    Args:
        figure (Figure): The figure.
        dpi (int): Its resolution. Defaults to 150.
        max_bytes (int, optional): The resolution is lowered until the picture is smaller. Defaults to None.
    """
    while True:
        buffer, small = io.BytesIO(), io.BytesIO()
        with matplotlib.rc_context(STYLE):  # ticks are made when they are drawn
            figure.savefig(buffer, dpi=dpi, facecolor='white', format='png')
        with Image.open(buffer) as picture:
            picture = picture.convert('RGB')
            picture.save(small, 'png', optimize=True)
            if small.tell() > min(max_bytes or PALETTE_BYTES, PALETTE_BYTES):
                small = io.BytesIO()
                picture.quantize(256, dither=Image.Dither.NONE).save(small, 'png', optimize=True)
        data = small.getvalue()
        if max_bytes is None or len(data) < max_bytes or dpi <= 40:
            return data
        dpi = int(dpi * .8)


def save_png(figure: Figure, path: str, dpi: int = 150, max_bytes: int | None = None) -> None:
    """Write :func:`png_bytes` to a file."""
    with whole_file(path) as part, open(part, 'wb') as file:
        file.write(png_bytes(figure, dpi, max_bytes))


def shorten(text: str, length: int = 26) -> str:
    return text if len(text) <= length else f'{text[:length - 1]}\u2026'


def optimal_angle(run: Run) -> float:
    """Angle of every pair of classes at the simplex ETF, in degrees."""
    return float(np.degrees(np.arccos(max(run.optimal_cosine, -1))))


def angles(run: Run, kind: str) -> np.ndarray:
    """Angles between the 'classifier' vectors or the 'means' of all pairs of classes, (K, K) in degrees, head to tail.

    NaN on the diagonal and where a vector has no direction.
    """
    cosines = run.cosines[kind][np.ix_(run.order, run.order)].astype(np.float64)
    np.fill_diagonal(cosines, np.nan)
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


def nearest(run: Run, kind: str) -> np.ndarray:
    """Angle of each class to the closest other one, (K,) in degrees, head to tail; NaN without one."""
    table = angles(run, kind)
    known = ~np.isnan(table).all(1)
    result = np.full(len(table), np.nan)
    result[known] = np.nanmin(table[known], axis=1)
    return result


def _blocks(table: np.ndarray, size: int) -> np.ndarray:
    """Means over blocks of ``size`` rows and columns, ignoring NaN."""
    edges = np.arange(0, len(table), size)
    known = ~np.isnan(table)
    total, count = (np.add.reduceat(np.add.reduceat(part, edges, axis=0), edges, axis=1)
                    for part in (np.where(known, table, 0), known.astype(np.float64)))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def block_size(num_classes: int) -> int:
    """How many classes one row of a heat map averages."""
    return -(-num_classes // MAX_CELLS)


def _group_borders(run: Run) -> list[float]:
    names = np.full(run.num_classes, 'none', dtype=object)
    for name, index in run.groups.items():
        names[index] = name
    borders = np.flatnonzero(names[run.order][1:] != names[run.order][:-1]) + .5
    # more than two changes of the group in the order of the counts only happen with hand-made groups
    return borders.tolist() if len(borders) <= 2 else []


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a fifteenth of the classes."""
    half = max(len(values) // 30, 1)
    padded = np.pad(values, half, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    return np.array([np.nanmean(part) if not np.isnan(part).all() else np.nan for part in windows])


def _class_axis(axis, run: Run, what: str, narrow: bool) -> None:
    """Ticks of the horizontal axis: the counts of the classes."""
    counts = run.num_per_class[run.order]
    ticks = np.arange(run.num_classes)
    if run.num_classes > (10 if narrow else MANY_CLASSES):
        ticks = np.unique(np.linspace(0, run.num_classes - 1, 6 if narrow else 8).round().astype(int))
    axis.set_xticks(ticks, [str(counts[t]) for t in ticks])
    axis.set_xlim(-.6, run.num_classes - .4)
    axis.set_xlabel(what)


def _count_axis(axis, counts: np.ndarray) -> None:
    axis.set_yscale('log')
    axis.set_ylim(.7, max(counts.max(), 1) * 1.3)
    axis.yaxis.set_major_formatter(lambda value, _: f'{value:,.0f}')
    axis.yaxis.set_minor_formatter('')


def _draw_counts_behind(axis, run: Run) -> None:
    counts, position = run.num_per_class[run.order], np.arange(run.num_classes)
    images = axis.twinx()
    images.fill_between(np.r_[-.5, np.repeat(position[1:] - .5, 2), run.num_classes - .5],
                        np.repeat(np.maximum(counts, .8), 2), .7, color=PALE, lw=0)
    _count_axis(images, counts)
    images.set_ylabel('training images (grey)', color=GREY, fontsize=8)
    images.tick_params(colors=GREY, labelsize=7, which='both', length=2)
    images.spines['left'].set_visible(False)
    axis.set_zorder(images.get_zorder() + 1)
    axis.patch.set_visible(False)


def _draw_accuracy(axis, runs: Sequence[Run], narrow: bool = False) -> None:
    first = runs[0]
    _draw_counts_behind(axis, first)
    position = np.arange(first.num_classes)
    for i, run in enumerate(runs):
        color, accuracy = COLORS[i % len(COLORS)], run.per_class[first.order]
        label = f'{shorten(run.label)}: {run.metrics["overall"]:.1f} % overall'
        if first.num_classes <= MANY_CLASSES:
            width = .82 / len(runs)
            axis.bar(position + (i - (len(runs) - 1) / 2) * width, accuracy, .92 * width, color=color, label=label)
        else:  # single classes are noisy
            axis.plot(position, accuracy, '.', ms=3, color=color, alpha=.3, mew=0)
            axis.plot(position, _smooth(accuracy), color=color, label=label, marker=MARKERS[i % len(MARKERS)], ms=5,
                      markevery=(i * 3 % 10, max(first.num_classes // 10, 1)))
    _class_axis(axis, first, 'training images of each class, from head to tail', narrow)
    axis.set_ylim(0, 100)
    axis.set_ylabel('test accuracy, %')
    axis.grid(axis='y')
    axis.legend(loc='lower left', bbox_to_anchor=(-.02, 1), ncols=1 if narrow else min(len(runs), 4), borderaxespad=.2)


@styled
def counts_figure(run: Run, narrow: bool = False) -> Figure:
    """Training images of each class, head to tail, on a logarithmic axis, with the three groups."""
    figure = _figure(4, 2.6) if narrow else _figure(9.6, 2.5)
    axis = figure.subplots()
    counts, position = run.num_per_class[run.order], np.arange(run.num_classes)
    bars = run.num_classes <= MANY_CLASSES
    for name, index in run.groups.items():
        member = np.isin(run.order, index)
        if member.any():
            axis.bar(position[member], counts[member], .8 if bars else 1, color=GROUP_COLORS[name], lw=0,
                     label=f'{name}-shot: {member.sum()}')
    if bars:
        for x, count in zip(position, counts):
            axis.text(x, max(count, .7) * 1.08, str(count), ha='center', va='bottom', fontsize=7 if narrow else 8)
    _count_axis(axis, counts)
    axis.set_ylim(top=max(counts.max(), 1) * 2.2)
    axis.set_ylabel('training images')
    if bars and run.classes:
        names = [shorten(run.class_name(k), 12) for k in run.order]
        level = max(map(len, names)) * len(names) < (40 if narrow else 120)
        axis.set_xticks(position, names, rotation=0 if level else 40, ha='center' if level else 'right',
                        rotation_mode='anchor')
        axis.set_xlim(-.6, run.num_classes - .4)
    else:
        _class_axis(axis, run, 'training images of each class, from head to tail', narrow)
    axis.grid(axis='y')
    axis.legend(loc='lower right', bbox_to_anchor=(1, 1), ncols=3, borderaxespad=.1, handlelength=1,
                columnspacing=1 if narrow else 2, handletextpad=.4, fontsize=7.5 if narrow else 9)
    return figure


@styled
def accuracy_figure(runs: Sequence[Run], narrow: bool = False) -> Figure:
    """Test accuracy of each class, head to tail, over the class counts in grey."""
    figure = _figure(4, 3 + .2 * len(runs)) if narrow else _figure(9.6, 3.4)
    _draw_accuracy(figure.subplots(), runs, narrow)
    return figure


@styled
def groups_figure(runs: Sequence[Run], narrow: bool = False) -> Figure:
    """Accuracy on all test images and on the many-, medium- and few-shot classes."""
    figure = _figure(4, 3 + .2 * len(runs)) if narrow else _figure(9.6, 2.8)
    axis = figure.subplots()
    names = ['overall', *(name for name, index in runs[0].groups.items() if len(index))]
    width = .84 / len(runs)
    for i, run in enumerate(runs):
        for j, name in enumerate(names):
            x, value = j + (i - (len(runs) - 1) / 2) * width, run.metrics[name]
            axis.bar(x, value, .92 * width, color=COLORS[i % len(COLORS)], label=None if j else shorten(run.label))
            axis.text(x, value + 1, f'{value:.0f}' if narrow and len(runs) > 2 else f'{value:.1f}', ha='center',
                      va='bottom', fontsize=7.5)
    labels = ['all test images', *(f'{name}-shot\n{len(runs[0].groups[name])} classes' for name in names[1:])]
    axis.set_xticks(range(len(names)), labels)
    axis.tick_params(axis='x', length=0)
    axis.set_ylim(0, 108)
    axis.set_yticks(range(0, 101, 20))
    axis.set_ylabel('test accuracy, %')
    axis.grid(axis='y')
    axis.legend(loc='lower left', bbox_to_anchor=(-.02, 1), ncols=2 if narrow else min(len(runs), 4), borderaxespad=.2)
    return figure


def _draw_heat_map(axis, run: Run, kind: str, numbers: bool, labels: bool = True):
    optimum, table = optimal_angle(run), angles(run, kind)
    size = block_size(run.num_classes)
    if size > 1:
        table = _blocks(table, size)
    axis.set_facecolor('#b8bfc6')  # of a class with itself
    norm = Normalize(optimum - ANGLE_RANGE, optimum + ANGLE_RANGE)
    image = axis.imshow(table, cmap='RdBu', norm=norm, interpolation='nearest')
    if numbers:
        for (i, j), value in np.ndenumerate(table):
            if not np.isnan(value):
                dark = abs(value - optimum) > .62 * ANGLE_RANGE
                axis.text(j, i, f'{value:.0f}', ha='center', va='center', fontsize=7, color='white' if dark else INK)
    for border in _group_borders(run):
        at = (border + .5) / size - .5
        axis.axhline(at, color='black', lw=.9)
        axis.axvline(at, color='black', lw=.9)
    ends = [-.5, len(table) - .5]
    axis.set_xticks(ends, ['head', 'tail'])
    axis.set_yticks(ends, ['head', 'tail'] if labels else ['', ''], rotation=90)
    for label, side in zip(axis.get_xticklabels(), ('left', 'right')):
        label.set_ha(side)
    for label, side in zip(axis.get_yticklabels(), ('top', 'bottom')):
        label.set_va(side)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return image


def _angle_bar(bar, optimum: float, horizontal: bool = True) -> None:
    """Ticks of a colour bar with the optimum marked."""
    low, high = optimum - ANGLE_RANGE, optimum + ANGLE_RANGE
    ticks = [t for t in np.arange(0, 181, 30) if low <= t <= high and abs(t - optimum) > 12]
    bar.set_ticks([*ticks, optimum], labels=[*(f'{t:.0f}\u00b0' for t in ticks), f'{optimum:.1f}\u00b0\noptimum'])
    (bar.ax.get_xticklabels() if horizontal else bar.ax.get_yticklabels())[-1].set_fontweight('bold')
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)
    (bar.ax.axvline if horizontal else bar.ax.axhline)(optimum, color='black', lw=2)


@styled
def angles_figure(run: Run, kind: str) -> Figure:
    """Heat map of the angles between all pairs of classes, head to tail; white is the optimum, red too close."""
    figure = _figure(4, 4.55)
    axis = figure.subplots()
    numbers = run.num_classes <= 14
    image = _draw_heat_map(axis, run, kind, numbers)
    axis.set_title(f'{shorten(run.label, 20)}: {KINDS[kind]}', fontweight='bold')
    bar = figure.colorbar(image, ax=axis, location='bottom', fraction=.05, pad=.02, aspect=28, extend='both')
    _angle_bar(bar, optimal_angle(run))
    bar.set_label('\u2190 too close   angle of two classes   too far \u2192', fontsize=8.5)
    return figure


@styled
def nearest_figure(runs: Sequence[Run], narrow: bool = False) -> Figure:
    """Angle of each class to its nearest other class, head to tail, with the optimum."""
    figure = _figure(4, 5 + .2 * len(runs)) if narrow else _figure(9.6, 3.2)
    axes = figure.subplots(*((2, 1) if narrow else (1, 2)), sharey=True)
    first = runs[0]
    optimum, position = optimal_angle(first), np.arange(first.num_classes)
    few = first.num_classes <= MANY_CLASSES
    lowest = optimum
    for axis, kind in zip(axes, KINDS):
        for i, run in enumerate(runs):
            values = nearest(run, kind)
            color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
            if few:
                axis.plot(position, values, color=color, marker=marker, ms=5, label=shorten(run.label))
            else:
                axis.plot(position, values, '.', ms=3, color=color, alpha=.3, mew=0)
                axis.plot(position, _smooth(values), color=color, marker=marker, ms=5, label=shorten(run.label),
                          markevery=(i * 3 % 10, max(first.num_classes // 10, 1)))
            lowest = min(lowest, np.nanmin(values, initial=optimum))
        axis.axhline(optimum, color=INK, lw=1, ls=(0, (4, 3)))
        axis.annotate(f'optimum {optimum:.1f}\u00b0', (0, optimum), (2, 3), textcoords='offset points', fontsize=8)
        axis.set_title(KINDS[kind].capitalize(), loc='left', fontweight='bold')
        _class_axis(axis, first, 'training images, head to tail', narrow)
        axis.grid(axis='y')
    axes[0].set_ylim(max(0, lowest - 6), optimum + 7)
    for axis in axes if narrow else axes[:1]:
        axis.set_ylabel('angle to the nearest class, \u00b0')
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside upper left', ncols=2 if narrow else 4)
    return figure


@styled
def calibration_figure(run: Run) -> Figure:
    """Reliability diagram: accuracy over confidence in bins, and how many test images each bin holds."""
    figure = _figure(4, 4.3)
    axis, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    count, correct, confidence = run.bins
    edges = np.linspace(0, 1, len(count) + 1)
    middle, width = (edges[1:] + edges[:-1]) / 2, edges[1]
    filled = count > 0
    accuracy = np.divide(correct, count, out=np.zeros_like(count), where=filled)
    mean_confidence = np.divide(confidence, count, out=middle.copy(), where=filled)
    axis.bar(middle[filled], accuracy[filled], .92 * width, color=COLORS[0], label='accuracy')
    for above, style in ((mean_confidence > accuracy, dict(color='#fbe3d2', edgecolor=COLORS[1], hatch='////',
                                                           label='overconfident by')),
                         (mean_confidence < accuracy, dict(color='#d6e8f3', edgecolor=COLORS[0], hatch='....',
                                                           label='underconfident by'))):
        above = above & filled
        if above.any():
            axis.bar(middle[above], (mean_confidence - accuracy)[above], .92 * width, bottom=accuracy[above], lw=.6,
                     **style)
    axis.plot([0, 1], [0, 1], color=INK, lw=1, ls=(0, (4, 3)), label='perfectly calibrated')
    axis.set_ylim(0, 1)
    axis.set_xlim(0, 1)
    axis.set_ylabel('share of right answers')
    axis.set_title(f'{shorten(run.label)}: calibration error {run.metrics["ece"]:.1f} %', fontweight='bold')
    axis.legend(loc='upper left', fontsize=8)
    axis.grid(axis='y')
    below.bar(middle, 100 * count / max(count.sum(), 1), .92 * width, color='#9aa5b1')
    below.set_ylabel('images, %')
    below.set_xlabel('confidence of the prediction')
    below.grid(axis='y')
    return figure


class Projection:
    """The plane, or space, in which the chosen classes are shown: that of their centred means.

    n classes span n - 1 dimensions, so three classes are shown in a plane, and four in space, without distortion. The
    axes are turned so that the means lie closest to a regular simplex with the first class at the top; runs can then
    be compared. Means and classifier vectors have the mean length 1, so that at self-duality they coincide.

    Args:
        run (Run): With samples of the classes.
        classes (Sequence[int]): Two classes or more.

    Attributes:
        dims (int): 2, or 3 for more than three classes.
        means, classifier (np.ndarray): Projected vectors, (n, dims).
        ideal (np.ndarray): Vertices of the regular simplex, (n, dims); None for more than four classes.
        kept (float): The share of the squared length of the classifier vectors that lies in the plane.
        points (dict[str, list[np.ndarray]]): Projected features of 'train' and 'test' images of each class.
    """

    def __init__(self, run: Run, classes: Sequence[int]) -> None:
        classes = list(classes)
        number = len(classes)
        self.dims = 2 if number <= 3 else 3

        def rows(x: np.ndarray) -> np.ndarray:  # a network of fewer dimensions has zeros in the others
            return np.pad(x.astype(np.float64), ((0, 0), (0, max(self.dims - x.shape[1], 0))))

        means, weight = (rows(run.vectors[kind][classes]) for kind in ('means', 'classifier'))
        center = means.mean(0)
        means, weight = means - center, weight - weight.mean(0)
        _, _, basis = np.linalg.svd(means, full_matrices=True)
        basis = basis[:self.dims].T
        scale, weight_scale = (max(float(np.linalg.norm(v, axis=1).mean()), 1e-12) for v in (means, weight))
        target = _simplex(number)[:, :self.dims] if number <= 4 else None
        self.ideal = target
        if target is not None:  # the rotation (or reflection) that brings the means closest to the simplex
            left, _, right = np.linalg.svd((means @ basis).T @ target)
            basis = basis @ left @ right
        self.means, self.classifier = means @ basis / scale, weight @ basis / weight_scale
        self.kept = float(np.square(weight @ basis).sum() / max(np.square(weight).sum(), 1e-300))
        self.points = {}
        for split, (features, labels) in run.samples.items():
            self.points[split] = [(rows(features[labels == k]) - center) @ basis / scale
                                  if (labels == k).any() else np.zeros((0, self.dims)) for k in classes]


def _simplex(number: int) -> np.ndarray:
    """Unit vertices of a regular simplex, (n, max(n - 1, 2)): the first points upwards."""
    if number == 2:
        return np.array([[0., 1.], [0., -1.]])
    if number == 3:
        turn = np.pi / 2 + 2 * np.pi / 3 * np.arange(3)
        return np.stack([np.cos(turn), np.sin(turn)], axis=1)
    turn = 2 * np.pi / 3 * np.arange(3) - np.pi / 2
    ground = np.stack([8**.5 / 3 * np.cos(turn), 8**.5 / 3 * np.sin(turn), np.full(3, -1 / 3)], axis=1)
    return np.concatenate([[[0, 0, 1.]], ground])


@styled
def projection_figure(run: Run, classes: Sequence[int]) -> Figure:
    """Features of the chosen classes in the plane (or space) of their means, with means and classifier vectors."""
    view = Projection(run, classes)
    figure = _figure(4, 4.6)
    flat = view.dims == 2
    axis = figure.subplots(subplot_kw=None if flat else dict(projection='3d'))
    reach = [np.abs(view.means).max(), np.abs(view.classifier).max(), 1]
    for i, k in enumerate(classes):
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        train, test = (view.points.get(split, [np.zeros((0, view.dims))] * len(classes))[i] for split in
                       ('train', 'test'))
        name = f'{shorten(run.class_name(k), 14)} ({run.num_per_class[k]})'
        if flat:
            axis.scatter(*test.T, s=12, facecolors='none', edgecolors=color, lw=.6, alpha=.45, marker=marker)
        axis.scatter(*train.T, s=12, color=color, alpha=.55, marker=marker, lw=0)
        tip = view.classifier[i]
        if flat:
            axis.annotate('', tip, (0, 0), arrowprops=dict(arrowstyle='-|>', color=color, lw=2, shrinkA=0, shrinkB=0,
                                                           mutation_scale=14), zorder=4)
        else:
            axis.quiver(0, 0, 0, *tip, color=color, lw=2, arrow_length_ratio=.12)
        axis.scatter(*view.means[i][:, None], s=80, color=color, marker=marker, edgecolors='black', lw=1.2, zorder=5,
                     label=name)
        cloud = np.concatenate([train, test])
        if len(cloud):
            reach.append(np.quantile(np.abs(cloud).max(1), .96))
    for i, j in itertools.combinations(range(len(classes)), 2):  # equal sides at the optimum
        axis.plot(*view.means[[i, j]].T, color=INK, lw=1, zorder=3)
    if view.ideal is not None:
        for vertex in view.ideal:
            axis.plot(*np.stack([0 * vertex, 1.35 * vertex]).T, color=GREY, lw=1, ls=(0, (2, 3)), zorder=1)
    limit = min(1.08 * max(reach), 3.5)
    axis.set_xlim(-limit, limit)
    axis.set_ylim(-limit, limit)
    if flat:
        axis.set_aspect('equal')
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(True)
        axis.spines[:].set_color(PALE)
    else:
        axis.set_zlim(-limit, limit)
        axis.view_init(elev=16, azim=-65)
        axis.set_box_aspect(None, zoom=1.02)
        for side in (axis.xaxis, axis.yaxis, axis.zaxis):
            side.set_ticklabels([])
            side.pane.set_facecolor('#f7f9fa')
    figure.suptitle(shorten(run.label), fontweight='bold', fontsize=10)  # that of axes in space is cut off
    figure.legend(*axis.get_legend_handles_labels(), loc='outside lower center', ncols=3 if len(classes) == 3 else 2,
                  fontsize=8, columnspacing=1, handletextpad=.2)
    return figure


# Title, ends of the keys in the log with their words, and whether the axis is logarithmic
PANELS = (
    ('Training loss', dict(loss=''), False),
    ('Accuracy in validation, %', {'accuracy/top1': '', 'long_tail/overall': '', 'long_tail/few': 'few-shot'}, False),
    ('Spread of the cosines in a batch', dict(std_cos_means='means', std_cos_w='classifier'), False),
    ('NC1 on the training set', {f'{NC_PREFIX}/nc1': ''}, True),
    ('NC2: spread of the cosines', {f'{NC_PREFIX}/nc2_equiangularity_means': 'means',
                                    f'{NC_PREFIX}/nc2_equiangularity_classifier': 'classifier'}, False),
    ('NC3: distance of classifier and means', {f'{NC_PREFIX}/nc3': ''}, False),
)


def curve(run: Run, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs (iterations, where the log has no epochs) and values of the key of the log that ends in ``name``."""
    training = [entry for entry in run.curves if 'iter' in entry and entry.get('epoch')]
    pace = training[-1]['epoch'] / training[-1]['iter'] if training else 1  # epochs an iteration
    points = []
    for entry in run.curves:
        for key, value in entry.items():
            if (key == name or key.endswith(f'/{name}')) and isinstance(value, (int, float)) and np.isfinite(value):
                points.append((entry['step'] * (pace if 'iter' in entry else 1), value))
    return tuple(np.array(points, dtype=np.float64).reshape(-1, 2).T)


@styled
def curves_figure(runs: Sequence[Run], narrow: bool = False) -> Figure | None:
    """What the logs hold of :data:`PANELS`; None if that is nothing."""
    drawn = []
    for title, names, log in PANELS:
        lines = [(i, run, words, *curve(run, name)) for i, run in enumerate(runs) for name, words in names.items()]
        lines = [line for line in lines if len(line[3]) > 1]
        if lines:
            drawn.append((title, list(names.values()), log, lines))
    if not drawn:
        return None
    columns = 1 if narrow else min(len(drawn), 3)
    rows = -(-len(drawn) // columns)
    figure = _figure(4, 2.4 * rows + .3) if narrow else _figure(9.6, 2.7 * rows + .4)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(drawn):]:
        axis.remove()
    handles = {}
    for axis, (title, words, log, lines) in zip(axes, drawn):
        for i, run, what, x, y in lines:
            style = ('-', (0, (1, 1)), (0, (4, 1)))[words.index(what)]
            line, = axis.plot(x, y, color=COLORS[i % len(COLORS)], ls=style, lw=1.5, marker=MARKERS[i % len(MARKERS)],
                              ms=4, markevery=max(len(x) // 6, 1))
            handles.setdefault(run.label, line)
        several = [word for word in words if word and any(line[2] == word for line in lines)]
        if several:  # which line style is what
            title += ': ' + ', '.join(f'{("solid", "dotted", "dashed")[words.index(word)]} {word}' for word in several)
        axis.set_title(title, fontsize=8.5, loc='left')
        axis.set_xlabel('epoch' if any(entry.get('epoch') for run in runs for entry in run.curves) else 'iteration')
        if log:
            axis.set_yscale('log')
        axis.grid(axis='y')
    figure.legend(handles.values(), [shorten(label) for label in handles], loc='outside upper left',
                  ncols=2 if narrow else 4)
    return figure


@styled
def story_figure(runs: Sequence[Run]) -> Figure:
    """Runs beside each other in one picture: accuracy of every class, and the angles between all pairs of classes.

    Args:
        runs (Sequence[Run]): One to eight runs on the same data.

    Returns:
        Figure: Two runs make a picture for a README: all four heat maps in one row.
    """
    optimum = optimal_angle(runs[0])
    panels = [(kind, run) for kind in KINDS for run in runs]
    columns = len(panels) if len(panels) <= 4 else len(runs)
    rows = len(panels) // columns
    width = max(2.5 * columns + .9, 7)
    figure = _figure(width, 3.1 + 2.95 * rows)
    top, bottom = figure.subfigures(2, 1, height_ratios=[3, 2.95 * rows])
    _draw_accuracy(top.subplots(), runs)
    axes = bottom.subplots(rows, columns, squeeze=False).ravel()
    for i, (axis, (kind, run)) in enumerate(zip(axes, panels)):
        image = _draw_heat_map(axis, run, kind, numbers=False, labels=i % columns == 0)
        axis.set_title(f'{shorten(run.label, 20)}\n{KINDS[kind]}', fontweight='bold', fontsize=9.5)
        closest, _, _ = closest_pair(run, kind, run.tail)
        if np.isfinite(closest):
            pair = 'closest pair' if run.balanced else 'closest tail pair'
            axis.set_xlabel(f'{pair} {closest:.0f}\u00b0', labelpad=-4, fontsize=9)
    bar = bottom.colorbar(image, ax=axes.tolist(), fraction=.03, pad=.02, aspect=18 * rows, extend='both')
    _angle_bar(bar, optimum, horizontal=False)
    bar.set_label('angle of two classes:\nred too close, blue too far', fontsize=8.5)
    return figure


def closest_pair(run: Run, kind: str, within: np.ndarray) -> tuple[float, int, int]:
    """Smallest angle between two of some classes in degrees, and the two; (NaN, -1, -1) without a pair."""
    within = np.asarray(within)
    cosines = run.cosines[kind][np.ix_(within, within)].astype(np.float64)
    cosines[np.tril_indices(len(within))] = np.nan
    if np.isnan(cosines).all():
        return float('nan'), -1, -1
    i, j = np.unravel_index(np.nanargmax(cosines), cosines.shape)
    return float(np.degrees(np.arccos(np.clip(cosines[i, j], -1, 1)))), int(within[i]), int(within[j])
