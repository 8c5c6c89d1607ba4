"""What the pictures show, and that they can be drawn at the edges: two classes, a thousand, nothing defined."""
import io
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

import allnc_mm  # noqa: F401
from allnc_mm.functional import simplex_etf
from allnc_mm.functional.collapse import pairwise_cosines
from allnc_mm.visualization import figures
from allnc_mm.visualization.runs import Run


def make_run(means, counts, classifier=None, label='run', **kwargs):
    """A run with these vectors and nothing else of interest."""
    counts, means = np.asarray(counts), torch.as_tensor(means, dtype=torch.float64)
    classifier = means if classifier is None else torch.as_tensor(classifier, dtype=torch.float64)
    vectors = dict(classifier=classifier, means=means)
    thirds = np.array_split(np.argsort(-counts, kind='stable'), 3)
    groups = dict(zip(('many', 'medium', 'few'), (np.sort(part) for part in thirds)))
    per_class = np.linspace(90, 10, len(counts))
    metrics = dict(overall=50., ece=10., many=80., medium=50., few=20.)
    return Run(label, '', '', '', '', counts, groups, 100, metrics, per_class,
               {kind: pairwise_cosines(v).numpy() for kind, v in vectors.items()},
               vectors={kind: v.numpy() for kind, v in vectors.items()}, **kwargs)


def long_tail(num_classes):
    return (500 * .01**(np.arange(num_classes) / (num_classes - 1))).astype(int)


def test_angles_are_sorted_from_head_to_tail():
    rng = np.random.default_rng(0)
    means, counts = rng.normal(size=(5, 4)), [3, 50, 20, 50, 7]
    run = make_run(means, counts)
    assert run.order.tolist() == [1, 3, 2, 4, 0]
    centred = means - means.mean(0)
    table, closest = figures.angles(run, 'means'), figures.nearest(run, 'means')
    for i, a in enumerate(run.order):
        row = []
        for j, b in enumerate(run.order):
            if i == j:
                assert math.isnan(table[i, j])
                continue
            cosine = centred[a] @ centred[b] / np.linalg.norm(centred[a]) / np.linalg.norm(centred[b])
            assert table[i, j] == pytest.approx(math.degrees(math.acos(cosine)), abs=1e-6)
            row.append(table[i, j])
        assert closest[i] == min(row)

    within = np.array([0, 2, 4])
    angle, a, b = figures.closest_pair(run, 'means', within)
    pairs = {(int(a), int(b)): table[run.order.tolist().index(a), run.order.tolist().index(b)]
             for a, b in itertools.combinations(within, 2)}
    assert angle == pytest.approx(min(pairs.values())) and pairs[a, b] == pytest.approx(angle)
    assert math.isnan(figures.closest_pair(run, 'means', np.array([1]))[0])


def test_blocks_ignore_what_is_undefined():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(7, 7))
    np.fill_diagonal(table, np.nan)
    table[6] = np.nan
    blocks = figures._blocks(table, 3)
    assert blocks.shape == (3, 3)
    for i, j in itertools.product(range(3), range(3)):
        part = table[3 * i:3 * i + 3, 3 * j:3 * j + 3]
        if np.isnan(part).all():
            assert math.isnan(blocks[i, j])
        else:
            assert blocks[i, j] == pytest.approx(np.nanmean(part))
    assert [figures.block_size(n) for n in (2, 200, 201, 1000, 8142)] == [1, 1, 2, 5, 41]


@pytest.mark.parametrize('number', [2, 3, 4])
def test_projection_shows_a_simplex_as_it_is(number):
    code = simplex_etf(6, 8, seed=1)
    classes = [4, 0, 5, 2][:number]
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 3)
    features = (5 * code[labels] + 2).numpy() + .1 * rng.normal(size=(18, 8))
    run = make_run(5 * code + 2, long_tail(6), classifier=.3 * code, samples=dict(train=(features, labels)))
    view = figures.Projection(run, classes)
    assert view.dims == (2 if number < 4 else 3) and view.kept == pytest.approx(1)
    # at self-duality vectors coincide, and all lie on the ideal directions; the first one points upwards
    np.testing.assert_allclose(view.means, view.ideal, atol=1e-6)
    np.testing.assert_allclose(view.classifier, view.ideal, atol=1e-6)
    assert view.ideal[0, -1] == 1 and np.allclose(np.linalg.norm(view.ideal, axis=1), 1)
    for points, vertex in zip(view.points['train'], view.ideal):
        assert points.shape == (3, view.dims) and np.abs(points - vertex).max() < .2


def test_projection_keeps_the_shape_of_three_means():
    """Rotation and scaling only: a squeezed tail is a short side."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(3, 10))
    means[2] = means[1] + .1 * rng.normal(size=10)
    view = figures.Projection(make_run(means, [50, 3, 2]), [0, 1, 2])
    shown, true = ([np.linalg.norm(v[i] - v[j]) for i, j in ((0, 1), (0, 2), (1, 2))] for v in (view.means, means))
    np.testing.assert_allclose(np.array(shown) / shown[0], np.array(true) / true[0])
    assert shown[2] < .3 * shown[0]


@pytest.mark.parametrize('number, dim', [(4, 2), (3, 1)])
def test_projection_of_fewer_dimensions(number, dim):
    generator = torch.Generator().manual_seed(0)
    run = make_run(torch.randn(5, 2, generator=generator), long_tail(5),
                   samples=dict(train=(torch.randn(8, 2).numpy(), np.arange(8) % 5)))
    run.vectors = {kind: v[:, :dim] for kind, v in run.vectors.items()}
    run.samples = {split: (x[:, :dim], labels) for split, (x, labels) in run.samples.items()}
    view = figures.Projection(run, range(number))
    lengths = np.linalg.norm(view.means[:, None] - view.means, axis=2)
    means = run.vectors['means'][:number].astype(float)
    expected = np.linalg.norm(means[:, None] - means, axis=2)
    np.testing.assert_allclose(lengths / lengths.max(), expected / expected.max(), atol=1e-6)  # nothing is lost
    assert figures.png_bytes(figures.projection_figure(run, range(number)))


def test_projection_of_many_classes_and_of_collapsed_ones():
    rng = np.random.default_rng(0)
    run = make_run(rng.normal(size=(7, 5)), long_tail(7), samples=dict(train=(rng.normal(size=(7, 5)), np.arange(7))))
    view = figures.Projection(run, range(6))
    assert view.dims == 3 and view.ideal is None and 0 < view.kept <= 1
    collapsed = figures.Projection(make_run(np.ones((3, 5)), [3, 2, 1]), [0, 1, 2])
    assert np.isfinite(collapsed.means).all() and np.isfinite(collapsed.classifier).all()


def test_curves_of_training_and_validation():
    run = make_run(np.eye(3), [3, 2, 1], curves=[
        dict(step=10, iter=10, epoch=1, loss=2., lr=.1), dict(step=20, iter=20, epoch=2, loss=1., lr=.1),
        {'step': 2, 'accuracy/top1': 60., 'neural_collapse_train/nc1': .5, 'neural_collapse/nc1': 9.}])
    (x, y), (at, top1) = figures.curve(run, 'loss'), figures.curve(run, 'accuracy/top1')
    assert x.tolist() == [1, 2] and y.tolist() == [2, 1] and at.tolist() == [2] and top1.tolist() == [60]
    assert figures.curve(run, 'neural_collapse_train/nc1')[1].tolist() == [.5]
    assert len(figures.curve(run, 'no such key')[0]) == 0
    figure = figures.curves_figure([run])
    assert [axis.get_title(loc='left') for axis in figure.axes] == ['Training loss']
    assert figures.curves_figure([make_run(np.eye(3), [3, 2, 1])]) is None


def test_calibration_tells_over_from_underconfidence():
    bins = np.array([[0., 10, 10, 0, 10], [0, 8, 2, 0, 9], [0, 3., 5, 0, 9]])
    figure = figures.calibration_figure(make_run(np.eye(3), [3, 2, 1], bins=bins))
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ['perfectly calibrated', 'accuracy', 'overconfident by', 'underconfident by']
    heights = {c.get_label(): [round(float(bar.get_height()), 6) for bar in c] for c in figure.axes[0].containers}
    assert heights == {'accuracy': [.8, .2, .9], 'overconfident by': [.3], 'underconfident by': [-.5]}


@pytest.mark.parametrize('num_classes', [2, 1000])
def test_sizes(num_classes):
    rng = np.random.default_rng(0)
    runs = [make_run(rng.normal(size=(num_classes, 16)), long_tail(num_classes), label=f'run {i}') for i in range(2)]
    story = figures.png_bytes(figures.story_figure(runs), max_bytes=200_000)
    panel = figures.png_bytes(figures.angles_figure(runs[0], 'means'))
    for data in (story, panel):
        assert len(data) < 200_000
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.width > 400 and len(picture.convert('RGB').getcolors(1 << 20)) > 20


def test_the_limit_on_bytes_lowers_the_resolution():
    run = make_run(np.random.default_rng(0).normal(size=(150, 16)), long_tail(150))
    figure = figures.angles_figure(run, 'means')
    free, tight = figures.png_bytes(figure), figures.png_bytes(figure, max_bytes=30_000)
    assert len(tight) < 30_000 < len(free)


def test_nothing_is_defined():
    """All vectors equal: no angle, but pictures."""
    run = make_run(np.ones((4, 3)), [5, 5, 5, 5])
    assert np.isnan(figures.angles(run, 'means')).all() and run.balanced and run.tail.tolist() == [0, 1, 2, 3]
    assert math.isnan(figures.closest_pair(run, 'means', run.tail)[0])
    for figure in (figures.angles_figure(run, 'means'), figures.nearest_figure([run]), figures.story_figure([run])):
        assert figures.png_bytes(figure, dpi=40)
