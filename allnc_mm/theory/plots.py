"""Pictures of the simulators. Colours are Okabe and Ito's, and every curve has a dash or mark of its own."""
from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from ..fileio import whole_file
from ..functional import simplex_cosine
from .solution import Solution

STYLES = [('#D55E00', '-'), ('#0072B2', '--'), ('#009E73', '-.'), ('#CC79A7', ':'), ('#000000', (0, (1, 1)))]
GREY = '0.35'


def _figure(panels: int, height: float = 3.4):
    figure = Figure(figsize=(4.6 * panels, height), layout='constrained')
    figure.get_layout_engine().set(w_pad=0.08)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _finish(axis, x: str, y: str, legend: bool = True) -> None:
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    axis.spines[['top', 'right']].set_visible(False)
    if legend:
        axis.legend(frameon=False, fontsize=8)


def _log(axis, which: str) -> None:
    """A logarithmic axis whose ticks are plain numbers, as many as there is room for."""
    getattr(axis, f'set_{which}scale')('log')
    ticks = getattr(axis, f'{which}axis')
    low, high = getattr(axis, f'get_{which}lim')()
    subs = (1, 1.5, 2, 3, 4, 6) if high < 8 * low else (1, 2, 5) if high < 200 * low else (1, )
    ticks.set_major_locator(LogLocator(subs=subs))
    ticks.set_major_formatter(FormatStrFormatter('%g'))
    ticks.set_minor_formatter(NullFormatter())


def _mark(axis, x: float, text: str) -> None:
    """A vertical line with its name above the panel, where no curve is."""
    axis.axvline(x, color='0.3', linewidth=1, linestyle=(0, (4, 3)))
    axis.annotate(text, (x, 1), xycoords=('data', 'axes fraction'), xytext=(0, 2), textcoords='offset points',
                  ha='center', va='bottom', fontsize=8)


def _name(axis, y: float, text: str) -> None:
    """What a height stands for, under it, at the right end."""
    axis.annotate(text, (1, y), xycoords=('axes fraction', 'data'), xytext=(-2, -3), textcoords='offset points',
                  ha='right', va='top', fontsize=8, color=GREY)


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG."""
    with whole_file(path) as part:
        figure.savefig(part, dpi=110, format='png')


def sweep(sweeps: dict[str, Sequence[Solution]], threshold: float = math.nan, measures: Sequence[str] = ('cos_BB',),
          ) -> Figure:
    """Cosine between minority classes, and how much longer the majority's vectors are, over the imbalance ratio.

    Args:
        sweeps (dict[str, Sequence[Solution]]): Solutions over R by label.
        threshold (float): R*, marked where it is in the range.
        measures (Sequence[str]): Cosines to draw, each in a panel.
    """
    num_classes = len(next(iter(sweeps.values()))[0].counts)
    titles = dict(cos_BB='cosine between minority classifiers', h_cos_BB='cosine between minority features')
    rows = {label: [solution.row() for solution in solutions] for label, solutions in sweeps.items()}
    everything = [row for found in rows.values() for row in found]
    # a single minority class has no other to make an angle with
    measures = [name for name in measures if not all(math.isnan(row[name]) for row in everything)]
    figure, axes = _figure(len(measures) + 1)
    ratios = [row['n_A'] / row['n_B'] for row in everything]
    ends = (min(ratios) / 1.15, max(ratios) * 1.15)
    gone = min((row['n_A'] / row['n_B'] for row in everything if row['w_A/w_B'] == math.inf), default=math.inf)
    least = min([simplex_cosine(num_classes), *(row[name] for row in everything for name in measures)])
    for axis, name in zip(axes, [*measures, 'w_A/w_B']):
        for (color, dash), (label, found) in zip(STYLES, rows.items()):
            few = sum(math.isfinite(row[name]) for row in found) < 3  # to be seen without a line between them
            axis.plot([row['n_A'] / row['n_B'] for row in found], [row[name] for row in found], color=color,
                      linestyle=dash, linewidth=2, marker='o' if few else '', label=label)
        axis.set_xlim(ends)
        _log(axis, 'x')
        if name in titles:
            axis.axhline(simplex_cosine(num_classes), color='0.5', linewidth=1, zorder=1)
            axis.set_ylim(least - 0.12, 1.08)
            _name(axis, simplex_cosine(num_classes), 'simplex ETF: all classes equally apart')
            _name(axis, 1, 'cosine 1: minority collapse')
        elif any(0 < row[name] < math.inf for row in everything):  # else all vectors are zero, and there is no ratio
            _log(axis, 'y')
        if ends[0] <= threshold <= ends[1]:
            _mark(axis, threshold, f'R* = {threshold:.4g}')
        if gone < math.inf:  # the minority's vectors are zero
            axis.axvspan(gone, ends[1], color='0.9', zorder=0)
            axis.annotate('minority\nvectors\nare zero', (math.sqrt(gone * ends[1]), 0.5),
                          xycoords=('data', 'axes fraction'), ha='center', va='center', fontsize=8, color=GREY)
        _finish(axis, 'imbalance ratio R', titles.get(name, 'classifier length, majority / minority'),
                legend=False)
    axes[0].legend(frameon=False, fontsize=8, loc='best')
    return figure


def flow(solution: Solution) -> Figure:
    """Gradient flow: norm over margin, measures of collapse, and the margin, over the logarithm of time."""
    curves = solution.curves
    start = sum(time <= 0 for time in curves['log10_t'])  # from time 1 on
    time = curves['log10_t'][start:]
    figure, axes = _figure(3)
    optimum = solution.extra['optimum']
    axes[0].plot(time, curves['norm/margin'][start:], color=STYLES[1][0], linewidth=2, label='gradient flow')
    axes[0].axhline(optimum, color='0.3', linestyle='--', label=f'least possible: {optimum:.5g}')
    axes[0].set_ylim(0.95 * optimum, 2 * optimum)
    if len(time) < 2:
        figure.suptitle('The flow has not reached time 1; give it more steps.', fontsize=10)
    names = {'NC1': 'NC1: spread within classes', 'std_cos_W': 'NC2: std of cosines, classifier',
             'std_cos_H': 'NC2: std of cosines, means', 'NC3': 'NC3: classifier against means'}
    for (color, dash), (name, label) in zip(STYLES, names.items()):
        axes[1].semilogy(time, curves[name][start:], color=color, linestyle=dash, linewidth=2, label=label)
    margin = [value if value > 0 else math.nan for value in curves['margin'][start:]]
    axes[2].plot(time, margin, color=STYLES[1][0], linewidth=2, label='gradient flow')
    log_time = math.log(10) * np.array(time)
    if len(set(solution.counts)) == 1 and len(time) and log_time[-1] > 2:
        log_time = log_time[log_time > 2]
        law = log_time + np.log(log_time) + math.log(2 / math.sqrt(solution.counts[0]))
        axes[2].plot(log_time / math.log(10), law, color='0.3', linestyle='--',
                     label=r'$\log t + \log\log t + \log(2/\sqrt{n})$')
    for axis, name in zip(axes, ('half the squared norm / margin', 'measure', 'smallest margin')):
        if len(time) > 1:  # an axis whose curve is undefined throughout (no margin yet) has no limits of its own
            axis.set_xlim(time[0], time[-1])
            _log(axis, 'x')
        _finish(axis, 'log10 of time', name)
    if any(value == value for value in margin):
        _log(axes[2], 'y')
    return figure


def classes(solutions: Sequence[Solution]) -> Figure:
    """Margin and squared length of the feature of every class over its count: closed form, then descent if given."""
    figure, axes = _figure(2)
    names = dict(margin='margin of the class', feature_norm_squared='squared length of the feature')
    for axis, (name, title) in zip(axes, names.items()):
        for (color, _), marker, solution, label in zip(STYLES[1:], ('o', 'x'), solutions, ('closed form', 'descent')):
            axis.plot(solution.curves['num_per_class'], solution.curves[name], marker, color=color, label=label,
                      markersize=7 if marker == 'o' else 11)
        _log(axis, 'x')
        threshold, (low, high) = solutions[0].threshold, axis.get_xlim()
        if low <= threshold <= high:
            _mark(axis, threshold, f'threshold {threshold:.4g}')
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        _finish(axis, 'samples of the class (up to the threshold, it vanishes)', title, legend=len(solutions) > 1)
    return figure


def temperatures(solutions: Sequence[Solution]) -> Figure:
    """Least one-vs-rest distance, and what it is the limit of, over the temperature."""
    figure, axes = _figure(1)
    knobs = [solution.knobs['tau'] for solution in solutions]
    names = {'rho': 'rho: least distance to the hull of the others', '1-max_cos': '1 - largest cosine',
             '-tau*log_loss': '-tau log loss, whose limit is rho'}
    for (color, dash), marker, (name, label) in zip(STYLES, 'osD', names.items()):
        axes[0].plot(knobs, [solution.extra[name] for solution in solutions], color=color, linestyle=dash,
                     marker=marker, markersize=5, linewidth=2, label=label)
    _log(axes[0], 'x')
    _finish(axes[0], 'temperature tau', 'distance')
    return figure
