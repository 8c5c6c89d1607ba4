"""The report of collapse: one HTML page that needs nothing else, its pictures and its numbers."""
import base64
import html
import json
import math
import os
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from ..fileio import whole_file
from ..version import __version__
from . import figures
from .readings import (
    ACCURACY,
    CALIBRATION,
    CLOSE,
    COLLAPSE,
    FAR,
    HALFWAY,
    Row,
    difference,
    findings,
    join,
    overconfidence,
    percent,
    report_numbers,
)
from .runs import Run, story_classes

DPI = 170


CSS = """
:root { color-scheme: light; --ink: #1f2933; --soft: #52606d; --line: #d9dee4; --tint: #f3f5f7; --link: #0b5394; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: #eef1f4; color: var(--ink); line-height: 1.55;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
header, main { max-width: 1180px; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
h1 { font-size: clamp(1.6rem, 1.2rem + 1.6vw, 2.3rem); line-height: 1.2; margin: 0 0 .35rem; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 0 0 .6rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p { margin: 0 0 .8rem; max-width: 78ch; }
a { color: var(--link); }
a:focus-visible, [tabindex]:focus-visible, summary:focus-visible { outline: 3px solid #e69f00; outline-offset: 2px; }
.lead, .note { color: var(--soft); }
.note { font-size: .9rem; }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: 1rem; top: 1rem; background: #fff; padding: .5rem 1rem; z-index: 1; }
nav ul { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; list-style: none; margin: 1rem 0; padding: 0; }
nav a { display: inline-block; padding: .3rem 0; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 1.4rem 1.5rem;
  margin: 1.1rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: 1rem; }
.card { border: 1px solid var(--line); border-top: 5px solid var(--run); border-radius: 8px; padding: .9rem 1.1rem; }
.card h3 { margin: 0 0 .5rem; overflow-wrap: anywhere; }
.card dl { display: grid; grid-template-columns: 1fr auto; gap: .1rem .8rem; margin: 0 0 .8rem; }
.card dt { color: var(--soft); }
.card dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; text-align: right; }
.card ul { margin: 0; padding-left: 1.1rem; } .card li { margin-bottom: .35rem; }
.change { border-left: 4px solid var(--run); padding-left: .8rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18.5rem, 100%), 1fr)); gap: 1.2rem; }
.grid figure { max-width: 27rem; }
figure { margin: 0 0 1rem; } figure img { display: block; width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .35rem; }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: .9rem; padding-bottom: .5rem; }
th, td { text-align: right; padding: .45rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { border-bottom: 2px solid #9aa5b1; }
thead th.run { overflow-wrap: anywhere; min-width: 4.4rem; }
.measures tbody th:first-child { min-width: 15rem; }
tbody th { font-weight: 600; }
tbody th small { display: block; font-weight: 400; color: var(--soft); max-width: 58ch; font-size: .85rem;
  line-height: 1.4; }
tr.part th { background: var(--tint); padding: .5rem .6rem; text-align: left; }
td small { display: block; font-weight: 400; color: var(--soft); white-space: nowrap; font-size: .85rem; }
td.undefined { color: var(--soft); font-size: .85rem; min-width: 8rem; max-width: 12rem; }
td.best { font-weight: 700; }
.chip { display: inline-block; width: .75em; height: .75em; border-radius: 2px; background: var(--run);
  margin-right: .4em; }
details { margin: .4rem 0 1rem; } summary { cursor: pointer; color: var(--link); padding: .3rem 0; }
details .scroll { max-height: 28rem; overflow: auto; }
.paths { display: grid; grid-template-columns: auto 1fr; gap: .2rem 1rem; margin: 0 0 1rem; }
.paths dt { color: var(--soft); } .paths dd { margin: 0; overflow-wrap: anywhere; }
main { padding-bottom: 2rem; }
@media (max-width: 640px) {
  header, main { padding-left: .7rem; padding-right: .7rem; }
  section { padding: 1rem .9rem; border-radius: 8px; }
  th, td { padding: .4rem .4rem; font-size: .92rem; }
  .measures, .measures thead, .measures tbody, .measures caption { display: block; }
  .measures tr { display: grid; grid-template-columns: repeat(var(--columns), minmax(4.4rem, 1fr));
    border-bottom: 1px solid var(--line); padding: .35rem 0; }
  .measures th, .measures td { border: 0; padding: .1rem .3rem .1rem 0; text-align: left; }
  .measures tbody th:first-child { grid-column: 1 / -1; min-width: 0; }
  .measures thead th:first-child { display: none; }
  .measures thead tr { border-bottom: 2px solid #9aa5b1; }
  .measures tr.part th { padding: .5rem .6rem; } td.undefined { min-width: 0; }
  .paths { grid-template-columns: 1fr; } .paths dd { margin-bottom: .5rem; }
}
@media print {
  body { background: #fff; } section { border: 0; padding: 0; } figure { break-inside: avoid; } nav { display: none; }
}
"""


def _text(value) -> str:
    return html.escape(str(value), quote=True)


def _color(runs: Sequence[Run], run: Run) -> str:
    """The colour of a run as a style; the same as in the pictures."""
    index = next(i for i, other in enumerate(runs) if other is run)
    return f'style="--run: {figures.COLORS[index % len(figures.COLORS)]}"'


class _Pictures:
    """Draws figures, and keeps their PNG files for the folder."""

    def __init__(self, advance: Callable[[], None]) -> None:
        self.files: dict[str, bytes] = {}
        self.advance = advance

    def _source(self, figure: Figure) -> tuple[bytes, str, str]:
        data = figures.png_bytes(figure, DPI)
        width, height = (round(96 * side) for side in figure.get_size_inches())
        encoded = base64.b64encode(data).decode()
        return data, f'data:image/png;base64,{encoded}', f'width="{width}" height="{height}"'

    def add(self, name: str, figure: Figure, alt: str, caption: str, narrow: Figure | None = None) -> str:
        """A figure element; phones get the narrow form."""
        data, source, size = self._source(figure)
        self.files[f'{name}.png'] = data
        image = f'<img src="{source}" {size} alt="{_text(alt)}">'
        if narrow is not None:
            _, source, size = self._source(narrow)
            image = f'<picture><source media="(max-width: 640px)" srcset="{source}" {size}>{image}</picture>'
        self.advance()
        return f'<figure>{image}<figcaption>{caption}</figcaption></figure>'


def _heading(runs: Sequence[Run]) -> str:
    return ''.join(f'<th class="run" scope="col" role="columnheader"><span class="chip" {_color(runs, run)}></span>'
                   f'{_text(run.label)}</th>' for run in runs)


def _table(caption: str, runs: Sequence[Run], parts: Sequence[tuple[str | None, Sequence[Row]]]) -> str:
    """A table of :class:`Row` lines, in parts with titles."""
    # the roles stay when a phone shows the lines as grids
    lines = [f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(caption)}">'
             f'<table class="measures" role="table" style="--columns: {len(runs) + 1}">',
             f'<caption>{_text(caption)}</caption>',
             f'<thead role="rowgroup"><tr role="row"><th scope="col" role="columnheader">Measure</th>{_heading(runs)}'
             '<th scope="col" role="columnheader">Optimum</th></tr></thead>']
    for title, rows in parts:
        lines.append('<tbody role="rowgroup">')
        if title:
            lines.append(f'<tr class="part" role="row"><th scope="rowgroup" role="rowheader" colspan="{len(runs) + 2}">'
                         f'{_text(title)}</th></tr>')
        for row in rows:
            cells = []
            for run, best in zip(runs, row.best(runs)):
                if math.isnan(row.value(run)):
                    cells.append(f'<td class="undefined" role="cell">{_text(row.text(run))}</td>')
                    continue
                verdict = row.verdict(run)
                verdict = f'<small>{verdict}</small>' if verdict else ''
                cells.append(f'<td role="cell"{" class=best" if best else ""}>{row.text(run)}{verdict}</td>')
            lines.append(f'<tr role="row"><th scope="row" role="rowheader">{_text(row.name)}<small>{_text(row.words)}'
                         f'</small></th>{"".join(cells)}<td role="cell">{row.ideal(runs[0])}</td></tr>')
        lines.append('</tbody>')
    return '\n'.join([*lines, '</table></div>'])


def _class_table(runs: Sequence[Run]) -> str:
    first = runs[0]
    caption = 'Test accuracy of each class in percent, from head to tail'
    lines = [f'<details><summary>Every class as a table</summary><div class="scroll" role="region" tabindex="0" '
             f'aria-label="{caption}"><table><caption>{caption}</caption><thead><tr><th scope="col">Class</th>'
             f'<th scope="col">Group</th><th scope="col">Training images</th>{_heading(runs)}</tr></thead><tbody>']
    group_of = {int(k): name for name, index in first.groups.items() for k in index}
    for k in first.order:
        values = ''.join('<td>no test images</td>' if np.isnan(run.per_class[k]) else f'<td>{run.per_class[k]:.1f}</td>'
                         for run in runs)
        lines.append(f'<tr><th scope="row">{_text(first.class_name(k))}</th><td>{group_of[int(k)]}</td>'
                     f'<td>{first.num_per_class[k]:,}</td>{values}</tr>')
    return '\n'.join([*lines, '</tbody></table></div></details>'])


def _card(runs: Sequence[Run], run: Run) -> str:
    angle, _, _ = figures.closest_pair(run, 'means', run.tail)
    facts = [('All test images', percent(run.metrics['overall']))]
    if len(run.groups['few']):
        facts.append(('Few-shot classes', percent(run.metrics['few'])))
    facts.append(('Closest class means' if run.balanced else 'Closest means in the tail',
                  'undefined' if math.isnan(angle) else f'{angle:.0f}\u00b0'))
    facts.append(('Calibration error', percent(run.metrics['ece'])))
    entries = ''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in facts)
    sentences = ''.join(f'<li>{_text(sentence)}</li>' for sentence in findings(run))
    return (f'<article class="card" {_color(runs, run)}><h3>{_text(run.label)}</h3><dl>{entries}</dl>'
            f'<ul>{sentences}</ul></article>')


def _file_name(text: str) -> str:
    return ''.join(c if c.isalnum() or c in '-_' else '-' for c in text)


def _sections(runs: Sequence[Run], classes: Sequence[int], pictures: _Pictures) -> list[tuple[str, str, str]]:
    """(identifier, title, body) of the sections of the page."""
    first = runs[0]
    counts, optimum = first.num_per_class, figures.optimal_angle(first)
    names = [_file_name(f'{i}-{run.label}' if len(runs) > 1 else run.label) for i, run in enumerate(runs, 1)]
    labels = join([run.label for run in runs])
    smallest = max(int(counts.min()), 0)
    ratio = f'{counts.max() / smallest:,.4g}' if smallest else 'infinite (a class has no image)'

    def both(name, draw, *args, alt, caption):
        return pictures.add(name, draw(*args), alt, caption, draw(*args, narrow=True))

    sections = []
    cards = '\n'.join(_card(runs, run) for run in runs)
    changes = ''.join(f'<p class="change" {_color(runs, run)}>{_text(difference(first, run))}</p>' for run in runs[1:])
    compared = f'<h3>Compared</h3>{changes}' if changes else ''
    sections.append(('short', 'In short', f'<div class="cards">{cards}</div>{compared}'))

    sizes = join([f'{len(index)} {name}-shot' for name, index in first.groups.items()])
    data = both('class-counts', figures.counts_figure, first,
                alt=f'Bar chart on a logarithmic axis: training images of the {first.num_classes} classes, from '
                f'{counts.max():,} down to {counts.min():,}.',
                caption=f'{counts.sum():,} training images in {first.num_classes} classes ({sizes}), from head to '
                f'tail; the largest class has {ratio} times the images of the smallest. {first.num_test:,} test '
                'images.')
    sections.append(('data', 'The data', data))

    smooth = ('' if first.num_classes <= figures.MANY_CLASSES else
              ' Dots are single classes, lines a running mean over a fifteenth of the classes.')
    groups = '; '.join(f'{run.label}: ' + ', '.join(
        f'{name} {percent(run.metrics[name])}' for name, index in run.groups.items() if len(index)) for run in runs)
    body = both('accuracy-per-class', figures.accuracy_figure, runs,
                alt=f'Test accuracy of each class from head to tail over the numbers of training images. {groups}.',
                caption=f'Test accuracy of each class; grey: its training images (logarithmic).{smooth}')
    body += both('accuracy-groups', figures.groups_figure, runs,
                 alt=f'Bar chart of the accuracies of the groups. {groups}.',
                 caption='Mean accuracy of the classes in each group. Groups follow the training images.')
    body += _table('Accuracy on the test set, in percent; the best run of each line in bold', runs, [(None, ACCURACY)])
    sections.append(('accuracy', 'Accuracy', body + _class_table(runs)))

    sections.append(('angles', 'Angles between the classes', _angles(runs, names, optimum, pictures, both)))

    legend = (f'<p class="note">{CLOSE}, {HALFWAY}, {FAR}: distance from the optimum, by rules of thumb; what matters '
              'is the comparison of runs. Measured on the training set without augmentation, in evaluation mode.</p>')
    if not first.measures.get('etf_feasible', 1):
        dim = first.vectors['means'].shape[1]
        legend += (f'<p>{first.num_classes} classes are more than {dim} dimensions can hold at equal angles (the '
                   f'simplex needs {first.num_classes - 1}): NC2 cannot reach its optimum, GNC2 says how good the '
                   'arrangement is.</p>')
    sections.append(('collapse', 'Measures of neural collapse',
                     legend + _table('Measures of neural collapse; the best run of each line in bold', runs, COLLAPSE)))

    if all(run.vectors and run.samples for run in runs):
        sections.append(('features', 'Features and classifier', _projections(runs, names, classes, pictures)))

    body = ('<p>A model is calibrated when, of the predictions it is 80 % sure of, 80 % are right: bars on the dashed '
            'line. Hatched: the confidence is too high. Dotted: the accuracy is higher than that.</p>'
            '<div class="grid">')
    for run, name in zip(runs, names):
        gap = overconfidence(run)
        words = f'{abs(gap):.1f} points {"more" if gap > 0 else "less"} confident than right'
        body += pictures.add(f'calibration-{name}', figures.calibration_figure(run),
                             f'Reliability diagram of {run.label}: expected calibration error '
                             f'{run.metrics["ece"]:.1f} percent; on average {words}.',
                             f'<strong>{_text(run.label)}</strong>: on average {words}.')
    body += '</div>' + _table('Calibration on the test set, in points of percent', runs, [(None, CALIBRATION)])
    sections.append(('calibration', 'Confidence', body))

    wide = figures.curves_figure(runs)
    if wide is not None:
        logged = join([run.label for run in runs if run.curves])
        sections.append(('curves', 'Training', pictures.add(
            'training-curves', wide, f'Curves from the training logs of {logged}.',
            'From the logs beside the checkpoints. Losses of different methods are sums of different terms: compare '
            'their shapes, not their heights.', figures.curves_figure(runs, narrow=True))))

    paths = ''
    for run in runs:
        rows = [('Config', run.config), ('Checkpoint', run.checkpoint), ('Log', run.log)]
        entries = ''.join(f'<dt>{name}</dt><dd>{_text(path)}</dd>' for name, path in rows if path)
        paths += f'<h3>{_text(run.label)}</h3><dl class="paths">{entries}</dl>'
    sections.append(('origin', 'Where this comes from', paths + (
        f'<p class="note">Made by allnc_mm {__version__}. All numbers are in <code>report.json</code>, the pictures '
        f'are PNG files beside this page. Runs: {_text(labels)}.</p>')))
    return sections


def _angles(runs: Sequence[Run], names: Sequence[str], optimum: float, pictures: _Pictures, both) -> str:
    first = runs[0]
    size = figures.block_size(first.num_classes)
    blocks = f' Each cell is the mean of {size} \u00d7 {size} pairs of classes.' if size > 1 else ''
    body = (f'<p>{first.num_classes} directions that are as far from each other as possible all meet at '
            f'{optimum:.1f}\u00b0 (cosine {first.optimal_cosine:.3f}): the simplex. White is that optimum, red pairs '
            'are too close and get confused, blue ones too far apart, which leaves less room for others. Under plain '
            'training on imbalanced data the lower right corner, the tail, turns red: minority collapse. Vectors are '
            f'taken from their common mean.{blocks}</p>')
    for kind, words in figures.KINDS.items():
        body += f'<h3>{words.capitalize()}</h3><div class="grid">'
        for run, name in zip(runs, names):
            everywhere, i, j = figures.closest_pair(run, kind, np.arange(run.num_classes))
            spread = run.metrics[f'std_cos_{kind}']
            if math.isnan(everywhere):
                note = 'no angle is defined'
            else:
                note = (f'standard deviation of the cosines {spread:.3f}; closest pair {run.class_name(i)} and '
                        f'{run.class_name(j)}, {everywhere:.0f}\u00b0')
            body += pictures.add(f'angles-{kind}-{name}', figures.angles_figure(run, kind),
                                 f'Heat map of the angles between the {words} of {run.label}, head to tail: {note}; '
                                 f'the optimum is {optimum:.1f} degrees.', f'<strong>{_text(run.label)}</strong>: '
                                 f'{_text(note)}.')
        body += '</div>'
    closest = '; '.join(
        f'{run.label}: {words} at least {np.nanmin(figures.nearest(run, kind), initial=180):.0f} degrees'
        for run in runs for kind, words in figures.KINDS.items())
    body += '<h3>The nearest neighbour of each class</h3>'
    return body + both('angles-nearest', figures.nearest_figure, runs,
                       alt=f'Angle of each class to its nearest other class, from head to tail. {closest}.',
                       caption='Angle of each class to its nearest other class: a drop at the right is a squeezed '
                       'tail.')


def _projections(runs: Sequence[Run], names: Sequence[str], classes: Sequence[int], pictures: _Pictures) -> str:
    chosen = join([runs[0].class_name(k) for k in classes])
    flat = len(classes) <= 3
    exact = '' if len(classes) <= 4 else ' Of more than four classes it is the best such view.'
    triangle = ('' if len(classes) < 3 else ' Equal sides along the dotted lines are the optimum.' if len(classes) <= 4
                else '')
    test = ' Hollow: test images.' if flat else ''
    body = (f'<p>The classes {_text(chosen)} in the {"plane" if flat else "space"} of their means.{exact} Large '
            f'symbols are class means, arrows classifier vectors, small filled symbols training images.{test} Lines '
            f'join the means.{triangle} Where an arrow misses its mean, classifier and features disagree.</p>'
            '<div class="grid">')
    for run, name in zip(runs, names):
        kept = 100 * figures.Projection(run, classes).kept
        body += pictures.add(f'features-{name}', figures.projection_figure(run, classes),
                             f'Features of {run.label} for the classes {chosen} with class means and classifier '
                             'vectors.',
                             f'<strong>{_text(run.label)}</strong>: {kept:.0f} % of the squared length of these '
                             f'classifier vectors lie in this {"plane" if flat else "space"}.')
    return body + '</div>'


def report_html(runs: Sequence[Run],
                classes: Sequence[int] | None = None,
                advance: Callable[[], None] = lambda: None) -> tuple[str, dict[str, bytes]]:
    """The page and its pictures.

    Args:
        runs (Sequence[Run]): One to eight runs on the same data.
        classes (Sequence[int], optional): Classes of the projection, whose samples the runs hold. Defaults to
            :func:`story_classes`.
        advance (Callable): Called after each picture.

    Returns:
        tuple[str, dict[str, bytes]]: The HTML, and PNG files by name.
    """
    runs = list(runs)
    classes = story_classes(runs[0].num_per_class) if classes is None else list(classes)
    pictures = _Pictures(advance)
    sections = _sections(runs, classes, pictures)
    title = f'Neural collapse: {join([run.label for run in runs])}'
    links = ''.join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading, _ in sections)
    bodies = '\n'.join(f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{heading}</h2>\n'
                       f'{body}\n</section>' for name, heading, body in sections)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>{CSS}</style>
</head>
<body>
<a class="skip" href="#short">Skip to the content</a>
<header>
<h1>{_text(title)}</h1>
<p class="lead">What a classifier has learned of frequent and rare classes: accuracy, angles, collapse, confidence.</p>
<nav aria-label="Contents"><ul>{links}</ul></nav>
</header>
<main>
{bodies}
</main>
</body>
</html>
"""
    return page, pictures.files


def num_pictures(runs: Sequence[Run]) -> int:
    """How many pictures :func:`report_html` draws, for a progress bar."""
    return 5 + 4 * len(runs)


def write_report(runs: Sequence[Run],
                 out: str,
                 classes: Sequence[int] | None = None,
                 advance: Callable[[], None] = lambda: None) -> dict[str, str]:
    """Write ``report.html``, ``report.json`` and the pictures into a folder.

    Args:
        runs, classes, advance: As in :func:`report_html`.
        out (str): The folder; it is made.

    Returns:
        dict[str, str]: The paths of the 'page' and the 'numbers'.
    """
    page, pictures = report_html(runs, classes, advance)
    paths = dict(page=os.path.join(out, 'report.html'), numbers=os.path.join(out, 'report.json'))
    numbers = json.dumps(report_numbers(runs), indent=1)
    files = {**{os.path.join(out, name): data for name, data in pictures.items()},  # before the page that shows them
             paths['page']: page.encode(), paths['numbers']: numbers.encode()}
    for path, data in files.items():
        with whole_file(path) as part, open(part, 'wb') as file:
            file.write(data)
    return paths
