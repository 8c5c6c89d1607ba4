"""Finished runs beside each other: accuracy of every class, calibration and geometry, as a table and a picture."""
import json
import math

import numpy as np
from rich.markup import escape
from rich.table import Table

from ..fileio import whole_file
from .figures import save_png, story_figure
from .runs import Run, build_model, evaluate_checkpoint, evaluate_run, find_run

__all__ = ['Run', 'build_model', 'comparison_table', 'draw_comparison', 'evaluate_checkpoint',
           'evaluate_run', 'find_run', 'plain', 'save_json']

MAX_BYTES = 200_000


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
        table.add_column(escape(run.label), justify='right', overflow='fold')
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


def plain(value):
    """What JSON can hold: arrays become lists, NaN null."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def save_json(runs: list[Run], path: str) -> None:
    """Write all numbers; undefined ones are null."""
    first = runs[0]
    content = dict(
        num_per_class=first.num_per_class, groups=first.groups, num_test=first.num_test,
        optimal_cosine=-1 / (first.num_classes - 1),
        runs=[dict(label=run.label, work_dir=run.work_dir, config=run.config, checkpoint=run.checkpoint, log=run.log,
                   metrics=run.metrics, accuracy_per_class=run.per_class) for run in runs])
    with whole_file(path) as part, open(part, 'w') as file:
        json.dump(plain(content), file, indent=1)


def draw_comparison(runs: list[Run], path: str) -> None:
    """Draw accuracy over the classes, and the angles between classifier vectors and class means, head to tail.

    Args:
        runs (list[Run]): One to eight runs on the same data.
        path (str): Of the PNG file, kept below 200 KB.
    """
    save_png(story_figure(runs), path, max_bytes=MAX_BYTES)
