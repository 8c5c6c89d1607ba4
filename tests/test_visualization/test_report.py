"""The report's page: well-formed, self-contained, accessible, honest about what is undefined."""
import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from rich.console import Console

import allnc_mm  # noqa: F401
from allnc_mm.functional.collapse import (
    ClassStatistics,
    SecondPass,
    collapse_measures,
    equiangularity,
    pairwise_cosines,
)
from allnc_mm.functional.geometry import unit_rows
from allnc_mm.functional.longtail import group_classes
from allnc_mm.visualization import readings
from allnc_mm.visualization.report import num_pictures, report_html, write_report
from allnc_mm.visualization.runs import Run, story_classes

VOID = {'meta', 'img', 'source', 'br', 'link', 'input', 'hr'}
HOSTILE = '<b>"CE" & \'co\'</b>'


class Page(HTMLParser):
    """Elements with their attributes and texts; fails on tags that do not balance."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        element = dict(tag=tag, attrs=dict(attrs), text='', parents=[parent['tag'] for parent in self.open])
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert tag not in VOID and self.open and self.open.pop()['tag'] == tag, (tag, self.getpos())

    def handle_data(self, data):
        for element in self.open:
            element['text'] += data

    def all(self, tag):
        return [element for element in self.elements if element['tag'] == tag]


def synthetic(label, num_classes, seed, dim=16, min_count=1):
    """A run whose measures come from random features."""
    rng = torch.Generator().manual_seed(seed)
    counts = np.maximum((300 * .003**(np.arange(num_classes) / max(num_classes - 1, 1))).astype(int), min_count)
    weight = torch.randn(num_classes, dim, generator=rng, dtype=torch.float64)
    labels = torch.arange(num_classes).repeat(3)
    features = weight[labels] + .3 * torch.randn(len(labels), dim, generator=rng, dtype=torch.float64)
    stats, unit = ClassStatistics(num_classes, dim), ClassStatistics(num_classes, dim)
    stats.update(features, labels)
    unit.update(unit_rows(features), labels)
    second = SecondPass(stats, weight)
    second.update(features, labels)
    measures, reasons = collapse_measures(stats, weight, second=second, unit_stats=unit, num_per_class=counts)
    groups = {name: np.asarray(index, dtype=int) for name, index in group_classes(counts).items()}
    per_class = np.linspace(95, 5 + 20 * seed, num_classes)
    metrics = {name: float(per_class[index].mean()) if len(index) else math.nan for name, index in groups.items()}
    metrics.update(overall=per_class.mean(), balanced=per_class.mean(), worst_class=per_class.min(),
                   geometric_mean=30., harmonic_mean=1 / np.mean([1 / metrics[name] for name in groups]), ece=12.,
                   ece_balanced=12., mce=30., std_cos_means=equiangularity(stats.class_means()),
                   std_cos_classifier=equiangularity(weight))
    means = stats.class_means()
    some = np.isin(labels.numpy(), story_classes(counts))
    sample = features.numpy()[some], labels.numpy()[some]
    count = np.full(15, 20.)
    bins = np.stack([count, count * np.linspace(.1, .8, 15), count * (np.arange(15) + .5) / 15])
    curves = [dict(step=i, iter=i, epoch=i, loss=1 / i) for i in range(1, 5)]
    return Run(label, 'work', 'config.py', 'epoch_1.pth', 'a.log', counts, groups, 900, metrics, per_class,
               dict(classifier=pairwise_cosines(weight).numpy(), means=pairwise_cosines(means).numpy()),
               [f'class <{k}>' for k in range(num_classes)], measures, reasons, bins,
               dict(classifier=weight.numpy(), means=means.numpy()), dict(train=sample, test=sample), curves)


@pytest.fixture(scope='module')
def runs():
    # K = 20 > d + 1: no simplex; no class has 20 images or fewer than that: the groups medium and few are empty
    return [synthetic(HOSTILE, 20, 0, min_count=101), synthetic('AllNC', 20, 1, min_count=101)]


@pytest.fixture(scope='module')
def report(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp('report')
    advanced = []
    paths = write_report(runs, str(out), advance=lambda: advanced.append(1))
    with open(paths['page'], encoding='utf-8') as file:
        text = file.read()
    return dict(out=out, paths=paths, text=text, page=Page(text), advanced=len(advanced))


def test_page_is_well_formed_and_accessible(report, runs):
    page = report['page']
    root, = page.all('html')
    assert root['attrs']['lang'] == 'en' and report['text'].startswith('<!DOCTYPE html>')
    title, = page.all('title')
    heading, = page.all('h1')
    assert title['text'] == heading['text'] == f'Neural collapse: {HOSTILE} and AllNC'
    assert any(meta['attrs'].get('name') == 'viewport' for meta in page.all('meta'))
    identifiers = [element['attrs']['id'] for element in page.elements if 'id' in element['attrs']]
    assert len(set(identifiers)) == len(identifiers)
    for link in page.all('a'):
        assert link['attrs']['href'][1:] in identifiers
    # headings go down by one level at a time
    levels = [int(element['tag'][1]) for element in page.elements if re.fullmatch('h[1-6]', element['tag'])]
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:]))
    assert [section['attrs']['aria-labelledby'] in identifiers for section in page.all('section')].count(False) == 0
    tables = page.all('table')
    assert len(tables) == 4 and len(page.all('caption')) == 4
    assert all(th['attrs'].get('scope') for th in page.all('th'))
    for image in page.all('img'):
        assert len(image['attrs']['alt']) > 20 and 'figure' in image['parents']
    assert len(page.all('figcaption')) == len(page.all('figure')) == len(page.all('img'))


def test_page_needs_nothing_else(report, runs):
    text, page = report['text'], report['page']
    assert not re.search(r'https?:|url\(|@import|<script|<link|<iframe', text)
    sources = [image['attrs']['src'] for image in page.all('img')]
    sources += [source['attrs']['srcset'] for source in page.all('source')]
    for source in sources:
        kind, data = source.split(',', 1)
        assert kind == 'data:image/png;base64' and base64.b64decode(data, validate=True).startswith(b'\x89PNG')
    files = sorted(path.name for path in report['out'].glob('*.png'))
    assert len(files) == len(page.all('img')) == num_pictures(runs) == report['advanced']
    assert '<b>' not in text.replace('&lt;b&gt;', '') and 'class <3>' not in text


def test_undefined_is_said_with_its_reason(report, runs):
    cells = [td['text'] for td in report['page'].all('td') if td['attrs'].get('class') == 'undefined']
    reason = runs[0].reasons['nc2_etf_distance_means']
    assert 'no simplex ETF of 20 classes exists in 16 dimensions' in reason
    assert cells.count(f'undefined: {reason}') == 4  # means and classifier of two runs
    assert cells.count('undefined: no class belongs to this group') == 4  # medium and few
    assert cells.count('undefined: one of the three groups is empty') == 2
    text = re.sub(r'data:[^"]*', '', report['text'])  # pictures hold every word
    assert not re.search(r'\bnan\b', text.lower())
    assert '20 classes are more than 16 dimensions can hold' in report['text']
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(readings.report_table(runs))
    text = console.export_text()
    assert re.search(r'nan\b', text) is None and 'undefined: no class belongs' in text and 'NC4' in text


def test_numbers(report, runs):
    with open(report['paths']['numbers'], encoding='utf-8') as file:
        numbers = json.load(file, parse_constant=lambda name: pytest.fail(f'{name} is no JSON'))
    assert numbers['num_per_class'] == runs[0].num_per_class.tolist()
    assert numbers['optimal_angle'] == pytest.approx(math.degrees(math.acos(-1 / 19)))
    for run, saved in zip(runs, numbers['runs']):
        assert saved['label'] == run.label and saved['accuracy_per_class'] == run.per_class.tolist()
        assert saved['measures']['nc1'] == run.measures['nc1']
        assert saved['measures']['nc2_etf_distance_means'] is None
        assert saved['reasons']['nc2_etf_distance_means'] == run.reasons['nc2_etf_distance_means']
        angles = np.degrees(np.arccos(np.clip(run.cosines['means'] - 2 * np.eye(20), -1, 1))).min(1)
        np.testing.assert_allclose(saved['nearest_angle_per_class']['means'], angles, atol=1e-6)


def test_a_thousand_classes():
    run = synthetic('CE', 1000, 0)
    text, pictures = report_html([run])
    assert len(text) < 5_000_000 and len(pictures) == num_pictures([run])
    page = Page(text)
    assert 'mean of 5 \u00d7 5 pairs of classes' in text
    assert len(page.all('tr')) > 1000  # every class as a table


def test_verdicts_and_the_best_run(runs):
    row = readings.Row('nc1', 'NC1', '', readings.ZERO, '.2f', (.1, 1))
    values = {}
    for value in (.1, .104, .5, 2., math.nan):
        run = synthetic('x', 3, 0)
        run.measures = dict(nc1=value)
        values[value] = run
    assert [row.verdict(run) for run in values.values()] == [
        readings.CLOSE, readings.CLOSE, readings.HALFWAY, readings.FAR, '']
    assert row.best(list(values.values())) == [True, True, False, False, False]  # what looks equal is equally good
    assert row.best([values[.1]]) == [False]
    # GNC2: the higher the better; the optimum is known where a simplex exists
    gnc2 = next(row for _, rows in readings.COLLAPSE for row in rows if row.key == 'gnc2')
    assert gnc2.ideal(runs[0]) == 'high' and gnc2.verdict(runs[0]) == ''
    best = runs[1].measures['gnc2'] >= runs[0].measures['gnc2']
    assert gnc2.best(runs) == [not best, best]
    assert gnc2.ideal(synthetic('x', 3, 0)) == '1.5'


def test_findings_say_what_the_numbers_say():
    run = synthetic('CE', 10, 0)
    run.bins = np.array([[100.], [40.], [90.]])
    run.cosines['means'][np.ix_(run.tail, run.tail)] = .9
    sentences = readings.findings(run)
    assert sentences[0].startswith(f'Right on {run.metrics["overall"]:.1f} % of the test images: ')
    assert 'class means are squeezed together' in sentences[1]
    assert '26\u00b0 apart, 96\u00b0 is the optimum' in sentences[1]
    assert sentences[-1] == 'It is overconfident: on average 50 points surer than it is right.'
    run.bins = np.array([[100.], [90.], [88.]])
    assert 'can be trusted' in readings.findings(run)[-1]
    other = synthetic('AllNC', 10, 1)
    gain = other.metrics['overall'] - run.metrics['overall']
    assert readings.difference(run, other).startswith(f'Against CE, AllNC gains {gain:.1f} points on all test images')
    assert 'loses' in readings.difference(other, run)
    run.num_per_class = np.full(10, 30)
    assert all('tail' not in sentence and 'rare ' not in sentence for sentence in readings.findings(run))
