"""What the numbers of finished runs mean: tables with optima and plain words, and findings in sentences."""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.markup import escape
from rich.table import Table

from ..version import __version__
from . import figures
from .comparison import plain
from .runs import Run

CLOSE, HALFWAY, FAR = '\u25cf close', '\u25d0 halfway', '\u25cb far'  # told apart by shape and word, not by colour


@dataclass
class Row:
    """A line of the tables.

    Attributes:
        key (str): In ``Run.measures`` or ``Run.metrics``.
        name (str): What it is called.
        words (str): What it means.
        optimum (Callable[[Run], float]): The best value; NaN if it is not known.
        form (str): Format of a value.
        limits (tuple[float, float] | None): Distances from the optimum up to which a value is 'close' or 'halfway'.
        percent (bool): Whether a fraction is shown in percent.
    """
    key: str
    name: str
    words: str
    optimum: Callable[[Run], float]
    form: str = '.3f'
    limits: tuple[float, float] | None = None
    percent: bool = False

    def value(self, run: Run) -> float:
        value = run.measures.get(self.key, run.metrics.get(self.key, math.nan))
        return 100 * value if self.percent else value

    def text(self, run: Run) -> str:
        """The value, or why there is none."""
        value = self.value(run)
        if math.isnan(value):
            return f'undefined: {self.reason(run)}'
        return f'{value:{self.form}}'

    def reason(self, run: Run) -> str:
        if self.key in run.reasons:
            return run.reasons[self.key]
        if self.key in run.groups and not len(run.groups[self.key]):
            return 'no class belongs to this group'
        if self.key == 'harmonic_mean':
            return 'one of the three groups is empty'
        return 'not measured'

    def distance(self, run: Run) -> float:
        """How far the value is from the best one, as it is shown: what looks equal is equally good."""
        value, best = self.value(run), self.optimum(run)
        if math.isnan(value):
            return math.nan
        return -value if math.isnan(best) else abs(float(f'{value:{self.form}}') - best)

    def verdict(self, run: Run) -> str:
        distance = self.distance(run)
        if self.limits is None or math.isnan(distance) or math.isnan(self.optimum(run)):
            return ''
        return CLOSE if distance <= self.limits[0] else HALFWAY if distance <= self.limits[1] else FAR

    def best(self, runs: Sequence[Run]) -> list[bool]:
        """Which of several runs are nearest to the optimum."""
        distances = [self.distance(run) for run in runs]
        least = min((d for d in distances if not math.isnan(d)), default=math.nan)
        return [len(runs) > 1 and d == least for d in distances]

    def ideal(self, run: Run) -> str:
        best = self.optimum(run)
        return 'high' if math.isnan(best) else f'{best:{self.form}}'.rstrip('0').rstrip('.') if best else '0'


def _always(value: float) -> Callable[[Run], float]:
    return lambda run: value


ZERO, ONE, HUNDRED = _always(0), _always(1), _always(100)


def _gnc2_optimum(run: Run) -> float:
    """The one-vs-rest distance of a simplex ETF; that of a softmax code is not known in closed form."""
    feasible = run.measures.get('etf_feasible', 0) and run.num_classes > 1
    return run.num_classes / (run.num_classes - 1) if feasible else math.nan


ACCURACY = (
    Row('overall', 'All test images',
        'Share of the test images whose class is predicted right, in percent.', HUNDRED, '.1f'),
    Row('balanced', 'Mean over the classes',
        'Every class counts the same, however many test images it has.', HUNDRED, '.1f'),
    Row('many', 'Many-shot classes',
        'The classes with the most training images.', HUNDRED, '.1f'),
    Row('medium', 'Medium-shot classes',
        'Those between.', HUNDRED, '.1f'),
    Row('few', 'Few-shot classes',
        'The rarest classes.', HUNDRED, '.1f'),
    Row('worst_class', 'Worst class',
        'The class that is recognised least often.', HUNDRED, '.1f'),
    Row('geometric_mean', 'Geometric mean',
        'Of the accuracies of the classes; one class at 0 makes it 0.', HUNDRED, '.1f'),
    Row('harmonic_mean', 'Harmonic mean',
        'Of the three groups; high only if all of them are.', HUNDRED, '.1f'),
    Row('ncc_accuracy_test', 'Nearest class mean',
        'Accuracy of predicting the class whose training mean is nearest: what the features alone can do.',
        HUNDRED, '.1f', percent=True),
)
CALIBRATION = (
    Row('ece', 'Expected calibration error',
        'How far confidence and accuracy are apart on average, in points of percent.', ZERO, '.1f', (3, 10)),
    Row('ece_balanced', 'The same, balanced',
        'Every class counts the same.', ZERO, '.1f', (3, 10)),
    Row('mce', 'Largest gap of a bin',
        'The same for the worst level of confidence.', ZERO, '.1f', (8, 25)),
)
COLLAPSE = (
    ('NC1: do the images of a class fall on one point?', (
        Row('nc1', 'NC1',
            'Scatter within the classes, measured in units of the distance between them. At 0 every image of a '
            'class has the same features.', ZERO, '#.3g', (.1, 1)),
        Row('nc1_class_max', 'Largest of a class',
            'The same for the most scattered class, by the quotient of traces.', ZERO, '#.3g', (.1, 1)),
        Row('cdnv_mean', 'CDNV',
            'Scatter of two classes over their squared distance, mean over all pairs.', ZERO, '#.3g', (.05, .5)),
    )),
    ('NC2: are all pairs of classes equally far apart?', (
        Row('nc2_equiangularity_means', 'Spread of the cosines, class means',
            'Standard deviation of the cosines over all pairs of classes. At 0 no pair is closer than another.',
            ZERO, '.3f', (.05, .15)),
        Row('nc2_equiangularity_classifier_centred', 'Spread of the cosines, classifier',
            'The same for the classifier vectors, minus their mean.', ZERO, '.3f', (.05, .15)),
        Row('angle_min_means', 'Closest pair, class means',
            'Smallest angle between two classes, in degrees.', figures.optimal_angle, '.1f', (8, 25)),
        Row('angle_min_classifier_centred', 'Closest pair, classifier',
            'The same for the classifier vectors, minus their mean.', figures.optimal_angle, '.1f', (8, 25)),
        Row('nc2_equinorm_means', 'Spread of the lengths, class means',
            'Standard deviation of the lengths over their mean.', ZERO, '.3f', (.05, .2)),
        Row('nc2_equinorm_classifier', 'Spread of the lengths, classifier',
            'Frequent classes often get longer vectors, which win more images.', ZERO, '.3f', (.05, .2)),
        Row('nc2_etf_distance_means', 'Distance from the simplex, class means',
            'Angles and lengths together; 2 is the largest distance.', ZERO, '.3f', (.1, .4)),
        Row('nc2_etf_distance_classifier', 'Distance from the simplex, classifier',
            'The same for the classifier vectors.', ZERO, '.3f', (.1, .4)),
    )),
    ('NC3: do classifier and class means point the same way?', (
        Row('nc3', 'Self-duality',
            'Distance of the classifier from the class means, both at unit size. At 0 they are the same, at 2 '
            'opposite.', ZERO, '.3f', (.1, .4)),
        Row('nc3_cosine_mean', 'Cosine of a class\u2019s two vectors',
            'Mean over the classes; 1 is the same direction.', ONE, '.3f', (.02, .1)),
        Row('nc3_cosine_min', 'The same, worst class',
            'The class whose classifier vector points away most.', ONE, '.3f', (.05, .2)),
    )),
    ('NC4: does the classifier choose the nearest class mean?', (
        Row('nc4_agreement', 'Agreement',
            'Share of the training images, in percent, on which classifier and nearest class mean predict the same.',
            HUNDRED, '.1f', (1, 5), percent=True),
        Row('nc4_agreement_balanced', 'The same, balanced',
            'Every class counts the same.', HUNDRED, '.1f', (1, 5), percent=True),
    )),
    ('GNC: the generalisation to many classes, on features of length 1', (
        Row('gnc1', 'GNC1',
            'NC1 of the normalised features.', ZERO, '#.3g', (.1, 1)),
        Row('gnc2', 'GNC2',
            'Distance of the worst-placed classifier vector from the hull of all others: the larger, the better '
            'every class can be told from the rest.', _gnc2_optimum, '.3f', (.1, .4)),
        Row('gnc3', 'GNC3',
            '1 minus the cosine of classifier vector and mean feature, without centring.', ZERO, '.3f', (.05, .2)),
        Row('gnc3_centred', 'GNC3, centred',
            'The same with the mean of all classes taken off.', ZERO, '.3f', (.05, .2)),
    )),
    ('Minority collapse: has the tail fallen together?', (
        Row('mci', 'Minority-collapse index, classifier',
            '0 is the simplex, 1 means that all vectors of the tail are one; below 0 the tail is spread even wider.',
            ZERO, '.3f', (.05, .3)),
        Row('mci_means', 'The same, class means',
            'For the class means of the tail.', ZERO, '.3f', (.05, .3)),
        Row('norm_ratio', 'Length of head over tail',
            'Mean length of the classifier vectors of the other classes over those of the tail.',
            ONE, '.2f', (.1, .4)),
    )),
)


def report_table(runs: Sequence[Run]) -> Table:
    """All numbers of the report for the terminal; the best run of each line in bold, with :attr:`Row.verdict`."""
    title = f'Best of each row in bold; distance from the optimum: {CLOSE}, {HALFWAY}, {FAR} (rules of thumb)'
    table = Table(title=title, title_style='dim', title_justify='left')
    table.add_column('')
    for run in runs:
        table.add_column(escape(run.label), justify='right', overflow='fold')
    table.add_column('ideal', justify='right', style='dim')
    sections = (('Accuracy in the test, %', ACCURACY), ('Calibration, points of percent', CALIBRATION), *COLLAPSE)
    for title, rows in sections:
        table.add_row(f'[bold]{title}[/]')
        for row in rows:
            cells = []
            for run, best in zip(runs, row.best(runs)):
                text = row.text(run)
                mark = row.verdict(run)[:1]
                cells.append((f'[bold]{text}[/]' if best else text) + (f' {mark}' if mark else ''))
            table.add_row(f'  {row.name}', *cells, row.ideal(runs[0]), end_section=row is rows[-1])
    return table


def percent(value: float) -> str:
    return 'undefined' if math.isnan(value) else f'{value:.1f} %'


def join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f'{", ".join(words[:-1])} and {words[-1]}'


def overconfidence(run: Run) -> float:
    """Mean confidence minus accuracy, in points of percent."""
    count, correct, confidence = run.bins.sum(1)
    return 100 * float(confidence - correct) / float(count)


def findings(run: Run) -> list[str]:
    """What stands out of a run, in sentences."""
    metrics, optimum = run.metrics, figures.optimal_angle(run)
    of_tail = '' if run.balanced else ' of the tail'
    parts = []
    which = dict(many='with the most training images', medium='in the middle', few='that are rarest')
    for name, words in which.items():
        size = len(run.groups[name])
        if size and size < run.num_classes:
            parts.append(f'{percent(metrics[name])} on the {size} {"class" if size == 1 else "classes"} {words}')
    details = f': {join(parts)}' if parts else ''
    sentences = [f'Right on {percent(metrics["overall"])} of the test images{details}.']

    for kind, words in (('means', 'class means'), ('classifier', 'classifier vectors')):
        if run.num_classes <= figures.MANY_CLASSES:
            angle, i, j = figures.closest_pair(run, kind, run.tail)
            who = f'the closest two{of_tail}, {run.class_name(i)} and {run.class_name(j)}, are'
        else:
            table = figures.nearest(run, kind)[np.isin(run.order, run.tail)]
            angle = float(np.nanmean(table)) if not np.isnan(table).all() else math.nan
            who = f'a class{of_tail} has its nearest class on average'
        if math.isnan(angle):
            continue
        state = ('squeezed together' if angle < optimum - 25 else 'somewhat squeezed' if angle < optimum - 12 else
                 'well apart')
        apart = 'apart' if run.num_classes <= figures.MANY_CLASSES else 'away'
        rare = '' if run.balanced else 'rare '
        sentences.append(f'Its {rare}{words} are {state}: {who} {angle:.0f}\u00b0 {apart}, {optimum:.0f}\u00b0 is the '
                         'optimum.')
    gap = overconfidence(run)
    if abs(gap) < 3:
        sentences.append(f'Its confidence can be trusted: on average {abs(gap):.1f} points from its accuracy.')
    else:
        sentences.append(f'It is {"over" if gap > 0 else "under"}confident: on average {abs(gap):.0f} points '
                         f'{"surer" if gap > 0 else "less sure"} than it is right.')
    return sentences


def difference(first: Run, other: Run) -> str:
    """One sentence: what another run changes against the first."""

    def gain(name):
        value = other.metrics[name] - first.metrics[name]
        return f'{"gains" if value >= 0 else "loses"} {abs(value):.1f} points'

    text = f'Against {first.label}, {other.label} {gain("overall")} on all test images'
    if not math.isnan(other.metrics['few'] - first.metrics['few']):
        text += f' and {gain("few")} on the few-shot classes'
    old, new = (figures.closest_pair(run, 'means', run.tail)[0] for run in (first, other))
    if not math.isnan(old + new) and first.num_classes <= figures.MANY_CLASSES:
        of_tail = '' if first.balanced else ' of the tail'
        text += f'; the closest class means{of_tail} go from {old:.0f}\u00b0 to {new:.0f}\u00b0'
    return f'{text}.'


def report_numbers(runs: Sequence[Run]) -> dict:
    """Everything that the report shows as numbers, ready for JSON; undefined values are None and have a reason."""
    first = runs[0]
    content = []
    for run in runs:
        angles = {}
        for kind in figures.KINDS:
            values = np.full(run.num_classes, np.nan)
            values[run.order] = figures.nearest(run, kind)
            angles[kind] = values
        content.append(dict(
            label=run.label, config=run.config, checkpoint=run.checkpoint, log=run.log, metrics=run.metrics,
            measures=run.measures, reasons=run.reasons, accuracy_per_class=run.per_class,
            nearest_angle_per_class=angles, calibration=dict(zip(('count', 'correct', 'confidence'), run.bins)),
            findings=findings(run)))
    return plain(dict(
        version=__version__, classes=first.classes, num_per_class=first.num_per_class, groups=first.groups,
        num_test=first.num_test, optimal_cosine=first.optimal_cosine, optimal_angle=figures.optimal_angle(first),
        runs=content))
