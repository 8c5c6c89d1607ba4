"""Pictures of the simulators. Colours are Okabe and Ito's, and every curve has a dash or mark of its own."""
from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from ..functional import simplex_cosine
from .solution import Solution

STYLES = [('#D55E00', '-'), ('#0072B2', '--'), ('#009E73', '-.'), ('#CC79A7', ':'), ('#000000', (0, (1, 1)))]


def _figure(panels: int, height: float = 3.4):
    figure = Figure(figsize=(4.6 * panels, height), layout='constrained')
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _finish(axis, x: str, y: str, legend: bool = True) -> None:
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    axis.spines[['top', 'right']].set_visible(False)
    if legend:
        axis.legend(frameon=False, fontsize=8)


def _log(axis, which: str) -> None:
    """A logarithmic axis with ticks at 1, 2, 5, 10, ... as plain numbers, as many as there is room for."""
    getattr(axis, f'set_{which}scale')('log')
    ticks = getattr(axis, f'{which}axis')
    low, high = getattr(axis, f'get_{which}lim')()
    ticks.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1, )))
    ticks.set_major_formatter(FormatStrFormatter('%g'))
    ticks.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def sweep(sweeps: dict[str, Sequence[Solution]], threshold: float = math.nan, measures: Sequence[str] = ('cos_BB',),
          ) -> Figure:
    """Cosine between minority classes, and how much longer the majority's vectors are, over the imbalance ratio.

    Args:
        sweeps (dict[str, Sequence[Solution]]): Solutions over R by label.
        threshold (float): R*, marked where it is finite.
        measures (Sequence[str]): Cosines to draw, each in a panel.
    """
    figure, axes = _figure(len(measures) + 1)
    num_classes = len(next(iter(sweeps.values()))[0].counts)
    titles = dict(cos_BB='cosine between minority classifiers', h_cos_BB='cosine between minority features')
    rows = {label: [solution.row() for solution in solutions] for label, solutions in sweeps.items()}
    for axis, name in zip(axes, [*measures, 'w_A/w_B']):
        for (color, dash), (label, found) in zip(STYLES, rows.items()):
            axis.plot([row['n_A'] / row['n_B'] for row in found], [row[name] for row in found], color=color,
                      linestyle=dash, linewidth=2, label=label)
        _log(axis, 'x')
        if name in titles:
            axis.axhline(simplex_cosine(num_classes), color='0.5', linewidth=1)
            axis.annotate('simplex ETF', (1, simplex_cosine(num_classes)), xycoords=('axes fraction', 'data'),
                          xytext=(-2, -2), textcoords='offset points', ha='right', va='top', fontsize=8, color='0.35')
            least = min((row[name] for found in rows.values() for row in found if not math.isnan(row[name])), default=0)
            axis.set_ylim(min(least, simplex_cosine(num_classes)) - 0.12, 1.08)
        else:
            _log(axis, 'y')
        if math.isfinite(threshold):
            axis.axvline(threshold, color='0.3', linewidth=1, linestyle=(0, (4, 3)))
            axis.annotate(f'R* = {threshold:.4g}', (threshold, 0), xycoords=('data', 'axes fraction'), fontsize=8,
                          xytext=(4, 4), textcoords='offset points')
        _finish(axis, 'imbalance ratio R', titles.get(name, 'length of majority / minority classifiers'))
    return figure


def flow(solution: Solution) -> Figure:
    """Gradient flow: norm over margin, measures of collapse, and the margin, over the logarithm of time."""
    curves = solution.curves
    start = sum(time <= 0 for time in curves['log10_t'])  # from time 1 on
    time = curves['log10_t'][start:]
    figure, axes = _figure(3)
    axes[0].plot(time, curves['norm/margin'][start:], color=STYLES[1][0], linewidth=2, label='half norm / margin')
    axes[0].axhline(solution.extra['optimum'], color='0.3', linestyle='--',
                    label=f'optimum {solution.extra["optimum"]:.5g}')
    axes[0].set_ylim(0.95 * solution.extra['optimum'], 2 * solution.extra['optimum'])
    for (color, dash), name in zip(STYLES, ('NC1', 'std_cos_W', 'std_cos_H', 'NC3')):
        axes[1].semilogy(time, curves[name][start:], color=color, linestyle=dash, linewidth=2, label=name)
    axes[2].plot(time, curves['margin'][start:], color=STYLES[1][0], linewidth=2, label='smallest margin')
    for axis, name in zip(axes, ('half norm over margin', 'measure', 'margin')):
        if len(time) > 1:  # an axis whose curve is undefined throughout (no margin yet) has no limits of its own
            axis.set_xlim(time[0], time[-1])
            _log(axis, 'x')
        _finish(axis, 'log10 of time', name)
    return figure


def classes(solution: Solution) -> Figure:
    """Margin and squared length of the feature of every class over its count."""
    curves = solution.curves
    figure, axes = _figure(2)
    for axis, name, color in zip(axes, ('margin', 'feature_norm_squared'), (STYLES[1][0], STYLES[2][0])):
        axis.plot(curves['num_per_class'], curves[name], 'o', color=color)
        axis.axvline(solution.threshold, color='0.3', linestyle='--', linewidth=1,
                     label=f'threshold n = {solution.threshold:.4g}')
        _log(axis, 'x')
        _finish(axis, 'samples of the class', name.replace('_', ' '))
    return figure


def temperatures(solutions: Sequence[Solution]) -> Figure:
    """Least one-vs-rest distance, and what it is the limit of, over the temperature."""
    figure, axes = _figure(1)
    knobs = [solution.knobs['tau'] for solution in solutions]
    for (color, dash), name in zip(STYLES, ('rho', '1-max_cos', '-tau*log_loss')):
        axes[0].semilogx(knobs, [solution.extra[name] for solution in solutions], color=color, linestyle=dash,
                         marker='o', linewidth=2, label=name)
    _finish(axes[0], 'temperature', 'distance')
    return figure
