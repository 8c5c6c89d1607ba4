import importlib.util
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

import allnc_mm  # noqa: F401
from allnc_mm.evaluation.last_layer import linear_map
from allnc_mm.visualization.comparison import Run, comparison_table, draw_comparison, evaluate_run
from allnc_mm.visualization.runs import evaluate_checkpoint

TOOL = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'compare_runs.py'
COUNTS = [9, 5, 3]


def write_images(root, counts, rng):
    for k, count in enumerate(counts):
        folder = root / f'class{k}'
        folder.mkdir(parents=True)
        for i in range(count):
            image = rng.randint(0, 60, (8, 8, 3)) + 60 * k
            Image.fromarray(image.astype(np.uint8)).save(folder / f'{i}.png')


def train(root, name, seed, **head):
    """A tiny run of stock mmpretrain parts; no class counts in the metainfo, augmentation in training."""
    work_dir = root / name
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    augmented = [pipeline[0], dict(type='RandomFlip', prob=1.0), pipeline[1]]
    loader = dict(batch_size=4, num_workers=0, collate_fn=dict(type='default_collate'))
    dataset = dict(type='CustomDataset', data_root=str(root / 'test'), pipeline=pipeline)
    evaluator = [dict(type='Accuracy'), dict(type='LongTailMetric', groups=(1, 1, 1), num_per_class=COUNTS)]
    cfg = Config(dict(
        default_scope='mmpretrain', work_dir=str(work_dir), experiment_name=f'{root.name}-{name}',
        custom_imports=dict(imports=['allnc_mm'], allow_failed_imports=False),
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(dict(type='LinearClsHead', num_classes=3, in_channels=32), **head)),
        data_preprocessor=dict(mean=[127.5] * 3, std=[60.] * 3),
        train_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dict(
            type='RepeatDataset', times=2,
            dataset=dict(dataset, data_root=str(root / 'train'), pipeline=augmented))),
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset),
        val_evaluator=evaluator, val_cfg=dict(), train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=.01)), randomness=dict(seed=seed)))
    cfg.dump(root / f'{name}.py')
    runner = Runner.from_cfg(Config.fromfile(root / f'{name}.py'))
    runner.train()
    return str(work_dir), runner


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp('compare')
    rng = np.random.RandomState(0)
    write_images(root / 'train', COUNTS, rng)
    write_images(root / 'test', [4, 4, 4], rng)
    (first, runner), (second, _) = train(root, 'one', 0), train(root, 'two', 1)
    return first, second, runner


def load_tool():
    spec = importlib.util.spec_from_file_location('compare_runs', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_command(runs, tmp_path):
    out = tmp_path / 'out'
    done = subprocess.run([sys.executable, str(TOOL), *runs[:2], '--out', str(out), '--labels', 'CE', 'AllNC'],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r'CE\W+AllNC\W+ideal', done.stdout) and 'Accuracy on all test images' in done.stdout
    for path in (out / 'comparison.png', out / 'comparison.json', Path(runs[0]) / 'epoch_2.pth'):
        assert path.is_file() and str(path) in done.stdout
    assert (out / 'comparison.png').stat().st_size < 200_000

    saved = json.loads((out / 'comparison.json').read_text())
    assert saved['num_per_class'] == COUNTS and saved['optimal_cosine'] == -.5
    assert [run['label'] for run in saved['runs']] == ['CE', 'AllNC']
    assert saved['groups'] == dict(many=[0], medium=[1], few=[2])
    # the log of the training says the same
    history = runs[2].message_hub.log_scalars
    for key in ('overall', 'few', 'ece'):
        logged = history[f'val/long_tail/{key}'].data[0][-1]
        assert saved['runs'][0]['metrics'][key] == pytest.approx(logged, abs=1e-4)
    assert history['val/accuracy/top1'].data[0][-1] == pytest.approx(saved['runs'][0]['metrics']['overall'], abs=1e-3)


def test_geometry_is_that_of_the_clean_training_images(runs):
    run = evaluate_run(runs[0])
    model = runs[2].model.eval()
    means = []
    for k in range(3):
        files = sorted((Path(runs[0]).parent / 'train' / f'class{k}').glob('*.png'))
        assert len(files) == COUNTS[k] == run.num_per_class[k]
        images = np.stack([np.asarray(Image.open(file))[..., ::-1].copy() for file in files])
        batch = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127.5) / 60
        with torch.no_grad():
            means.append(model.extract_feat(batch)[-1].double().mean(0).numpy())
    for kind, rows in (('means', np.stack(means)), ('classifier', model.head.fc.weight.detach().double().numpy())):
        rows = rows - rows.mean(0)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(run.cosines[kind], unit @ unit.T, atol=1e-4)
        spread = np.std([(unit @ unit.T)[i, j] for i, j in ((0, 1), (0, 2), (1, 2))])
        assert run.metrics[f'std_cos_{kind}'] == pytest.approx(spread, abs=1e-4)
    assert run.label == 'one' and run.checkpoint.endswith('epoch_2.pth') and run.log.endswith('.log')


def test_images_of_a_concatenated_training_set_are_counted(runs, tmp_path):
    """Whose metainfo is that of its first part."""
    cfg = Config.fromfile(Path(runs[0], 'one.py'))
    part = cfg.train_dataloader.dataset.dataset
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', ignore_keys=['num_per_class'], datasets=[
        dict(part, metainfo=dict(num_per_class=COUNTS)), dict(part, data_root=cfg.val_dataloader.dataset.data_root)])
    cfg.dump(tmp_path / 'config.py')
    run = evaluate_checkpoint(str(tmp_path / 'config.py'), str(Path(runs[0], 'epoch_2.pth')))
    assert run.num_per_class.tolist() == [n + 4 for n in COUNTS]


def test_errors(runs, tmp_path, capsys):
    tool = load_tool()

    def fails(*argv):
        with pytest.raises(SystemExit) as caught:
            tool.main([str(arg) for arg in argv])
        assert caught.value.code
        return capsys.readouterr().err

    out = ['--out', tmp_path / 'out']
    assert 'is not a folder; give the work_dir' in fails(tmp_path / 'nowhere', *out)
    empty = tmp_path / 'empty'
    empty.mkdir()
    assert 'holds no config' in fails(empty, *out)
    (empty / 'config.py').write_text(Path(runs[0], 'one.py').read_text())
    assert 'holds no checkpoint; let the run finish' in fails(empty, *out)
    assert 'one name for each of the 2 runs, but got 1' in fails(*runs[:2], *out, '--labels', 'CE')
    assert '--groups must be A, B or three sizes' in fails(runs[0], *out, '--groups', 'many')
    assert 'must sum to the 3' in fails(runs[0], *out, '--groups', '1,1,2')

    def variant(**changes):
        cfg = Config.fromfile(Path(runs[0], 'one.py'))
        cfg.merge_from_dict(changes)
        cfg.dump(empty / 'config.py')
        (empty / 'last_checkpoint').write_text(str(Path(runs[0], 'epoch_2.pth')))
        return empty

    data = 'train_dataloader.dataset.dataset.data_root'
    four = tmp_path / 'four'
    write_images(four, [3, 2, 2, 1], np.random.RandomState(0))
    other = variant(**{data: str(four), 'model.head.num_classes': 4})
    assert 'classes of the test set are not those of the training set (3, 4; class3)' in fails(runs[0], other, *out)
    other = variant(**{data: str(four), 'val_dataloader.dataset.data_root': str(four), 'model.head.num_classes': 4})
    assert 'different data (3 and 4 classes)' in fails(runs[0], other, *out)
    other = variant(**{data: str(Path(runs[0]).parent / 'test')})
    assert 'different data (17 and 12 training images' in fails(runs[0], other, *out)
    assert 'the head has 4 classes, but the training set has 3' in fails(variant(**{'model.head.num_classes': 4}), *out)
    assert 'does not fit the model' in fails(variant(**{'model.head.in_channels': 16}), *out)
    assert not (tmp_path / 'out').exists()


def test_linear_map():
    head = torch.nn.Module()
    with pytest.raises(ValueError, match='no linear classifier to compare'):
        linear_map(head)
    head.num_classes = 5
    head.layers = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 5))
    assert linear_map(head)[0].shape == (5, 3)
    head.fc = torch.nn.Linear(7, 5)
    assert linear_map(head)[0].shape == (5, 7)
    head.classifier_weight = torch.nn.Parameter(torch.ones(5, 4))
    assert linear_map(head)[0].shape == (5, 4)


def fake_run(label, num_classes, seed, few=True):
    rng = np.random.RandomState(seed)
    counts = (500 * .01**(np.arange(num_classes) / (num_classes - 1))).astype(int)
    thirds = [num_classes // 3, 2 * num_classes // 3]
    groups = dict(zip(('many', 'medium', 'few'), np.split(np.arange(num_classes), thirds)))
    if not few:
        groups = dict(groups, medium=np.arange(num_classes // 3, num_classes), few=np.zeros(0, dtype=int))
    cosines = np.clip(rng.normal(-1 / (num_classes - 1), .1 + .2 * seed, (num_classes, num_classes)), -1, 1)
    per_class = np.clip(np.linspace(90, 20 + 20 * seed, num_classes) + rng.normal(0, 8, num_classes), 0, 100)
    names = ('overall', 'many', 'medium', 'few', 'worst_class', 'ece', 'std_cos_means', 'std_cos_classifier',
             'tail_cosine')
    metrics = dict(zip(names, [50. + seed, 80. - seed, 40. + seed, 20. + seed, 3., 12. - seed, .1, .2 + seed, -.1]))
    if not few:
        metrics['few'] = math.nan
    return Run(label, '', '', '', '', counts, groups, 100, metrics, per_class, dict(classifier=cosines, means=cosines))


def test_table_marks_the_best():
    table = comparison_table([fake_run('CE', 10, 0, few=False), fake_run('AllNC', 10, 1, few=False)])
    cells = {name: [list(column.cells)[i] for column in table.columns[1:]]
             for i, name in enumerate(list(table.columns[0].cells))}
    assert cells['Accuracy on all test images, %'] == ['50.0', '[bold]51.0[/]', '100']
    assert cells['  many-shot: 3 classes with 500 to 179 images'][:2] == ['[bold]80.0[/]', '79.0']
    assert cells['  few-shot classes (none)'] == ['-', '-', '100']
    assert cells['  the worst class'][:2] == ['[bold]3.0[/]', '[bold]3.0[/]']  # equal
    assert cells['Calibration error of the confidence, %'][:2] == ['12.0', '[bold]11.0[/]']
    assert cells['  cosine between those of the rarest classes'][2] == '-0.111'


def test_labels_are_no_markup():
    from rich.console import Console
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(comparison_table([fake_run('CE [seed 0]', 10, 0), fake_run('AllNC [/x]', 10, 1)]))
    text = console.export_text()
    assert 'CE [seed 0]' in text and 'AllNC [/x]' in text


@pytest.mark.parametrize('num_classes, num_runs', [(2, 1), (10, 2), (100, 4)])
def test_picture(tmp_path, num_classes, num_runs):
    path = tmp_path / 'comparison.png'
    draw_comparison([fake_run(f'run {i}', num_classes, i) for i in range(num_runs)], str(path))
    assert path.stat().st_size < 200_000
    with Image.open(path) as picture:
        assert picture.width > 500 and len(picture.convert('RGB').getcolors(1 << 20)) > 20
