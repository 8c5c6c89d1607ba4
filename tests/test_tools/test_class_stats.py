import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

import allnc_mm  # noqa: F401
from allnc_mm.class_counts import read_class_counts
from allnc_mm.evaluation import LongTailMetric, NeuralCollapseMetric
from allnc_mm.models.losses import LogitAdjustedLoss
from allnc_mm.visualization.class_stats import ClassStats, class_stats, draw_stats, stats_table

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools' / 'analysis_tools' / 'class_stats.py'
TINY = ROOT / 'tests' / 'data' / 'tiny_digits.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('class_stats', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command(tool, tmp_path, capsys):
    tool.main([str(TINY), '--out', str(tmp_path / 'out'), '--groups', '3,3,4'])
    out = capsys.readouterr().out
    counts = Config.fromfile(TINY).train_dataloader.dataset
    saved = json.loads((tmp_path / 'out' / 'class_stats.json').read_text())
    assert saved['num_per_class'][0] == counts.n_max and saved['imbalance_factor'] == counts.imb_factor
    assert saved['unit'] == 'images' and saved['total'] == sum(saved['num_per_class']) == 159
    pairs = [abs(a - b) for a in saved['num_per_class'] for b in saved['num_per_class']]
    assert saved['gini'] == pytest.approx(np.mean(pairs) / 2 / np.mean(saved['num_per_class']))
    assert saved['groups'] == dict(many=[0, 1, 2], medium=[3, 4, 5], few=[6, 7, 8, 9])
    assert '159 images in 10 classes; imbalance factor 10' in out and '3 many, 3 medium, 4 few' in out
    with Image.open(tmp_path / 'out' / 'class_stats.png') as picture:
        assert picture.width > 500 and len(picture.convert('RGB').getcolors(1 << 20)) > 20

    path = str(tmp_path / 'out' / 'class_stats.json')
    assert LongTailMetric(num_per_class=path).num_per_class.tolist() == saved['num_per_class']
    assert NeuralCollapseMetric(num_per_class=path).num_per_class == saved['num_per_class']
    assert LogitAdjustedLoss(num_per_class=path).num_per_class == saved['num_per_class']


@pytest.mark.slow
def test_as_a_program(tmp_path):
    done = subprocess.run([sys.executable, str(TOOL), str(tmp_path / 'nothing.py')], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith('FileNotFoundError: Config')
    assert 'Traceback' not in done.stderr


def write_config(tmp_path, dataset, scope='mmpretrain'):
    path = tmp_path / 'config.py'
    Config(dict(default_scope=scope, custom_imports=dict(imports=['allnc_mm'], allow_failed_imports=False),
                train_dataloader=dict(batch_size=1, dataset=dataset))).dump(path)
    return str(path)


def test_pixels_without_those_to_ignore(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    total = np.zeros(3, dtype=int)
    for i in range(2):
        labels = np.random.RandomState(i).choice([0, 0, 0, 1, 2, 255], (6, 7)).astype(np.uint8)
        total += [(labels == k).sum() for k in range(3)]
        Image.fromarray(labels).save(tmp_path / 'labels' / f'{i}.png')
        Image.fromarray(np.zeros((6, 7, 3), np.uint8)).save(tmp_path / 'images' / f'{i}.jpg')
    dataset = dict(type='BaseSegDataset', data_root=str(tmp_path), metainfo=dict(classes=('sky', 'road', 'car')),
                   data_prefix=dict(img_path='images', seg_map_path='labels'), pipeline=[])
    stats = class_stats(write_config(tmp_path, dict(type='RepeatDataset', times=3, dataset=dataset), 'mmseg'))
    assert stats.unit == 'pixels' and stats.num_per_class == total.tolist() and stats.classes == ['sky', 'road', 'car']
    assert set(stats.groups) == {'head', 'middle', 'tail'} and 0 in stats.groups['head']


def test_wrapped_and_concatenated_images_count_once(tmp_path):
    digits = dict(type='DigitsLT', split='train', n_max=40, imb_factor=10, size=8, pipeline=[])
    single = class_stats(write_config(tmp_path, dict(type='RepeatDataset', times=4, dataset=digits))).num_per_class
    double = class_stats(write_config(tmp_path, dict(type='ConcatDataset', datasets=[digits, digits]))).num_per_class
    assert sum(single) == 159 and double == [2 * n for n in single]


@pytest.mark.parametrize('num_classes', [2, 100])
def test_table_and_picture_of_few_and_many_classes(tmp_path, num_classes):
    counts = [int(500 * .01**(k / (num_classes - 1))) for k in range(num_classes)]
    counts[-1] = 0
    stats = ClassStats('c.py', 'images', [f'class {k}' for k in range(num_classes)], counts,
                       dict(many=[0], medium=[], few=list(range(1, num_classes))), 'A')
    table = stats_table(stats)
    assert table.row_count == (2 if num_classes == 2 else 41)
    assert ('... 60 more classes ...' in list(table.columns[0].cells)) == (num_classes == 100)
    assert stats.to_dict()['imbalance_factor'] is None and 'imbalance factor inf' in table.title
    draw_stats(stats, str(tmp_path / 'stats.png'))
    assert 3_000 < (tmp_path / 'stats.png').stat().st_size < 100_000


def test_errors(tmp_path):
    with pytest.raises(ValueError, match='has no train_dataloader'):
        (tmp_path / 'none.py').write_text('model = dict()')
        class_stats(str(tmp_path / 'none.py'))
    with pytest.raises(ValueError, match='three group sizes'):
        class_stats(str(TINY), groups='C')


def test_reader(tmp_path):
    path = tmp_path / 'counts.json'
    path.write_text('[3, 2]')
    assert read_class_counts(str(path), 'Loss') == [3, 2] == read_class_counts(np.array([3, 2]), 'Loss')
    assert read_class_counts(None, 'Loss') is None
    with pytest.raises(FileNotFoundError, match='`num_per_class` of Loss .*class_stats.py CONFIG --out'):
        read_class_counts(str(tmp_path / 'none.json'), 'Loss')
    for content, message in (('{', 'is no JSON file'), ('{"a": 1}', "the file has no 'num_per_class'"),
                             ('[]', 'one count a class'), ('[1.5]', 'one count a class'), ('[-1]', 'one count a class'),
                             ('{"num_per_class": "ab"}', 'one count a class')):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_class_counts(str(path), 'Loss')
