"""The tables in the documentation are what the scripts print from the logs."""
import argparse
import shutil
from pathlib import Path

import ablation
import camvid
import markdown_tables
import numpy as np
import protocols
import pytest
import softmax_code
import speed
import torch
from filelock import FileLock
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

from allnc_mm.registry import DATASETS, MODELS
from allnc_mm.visualization.runs import build_model

ROOT = Path(__file__).resolve().parents[1]
ALLNC = 'configs/allnc/README.md'
TABLES = [('README.md', 'summary'), ('configs/gnc/README.md', 'softmax-code'), (ALLNC, 'cifar10-if100'),
          (ALLNC, 'cifar10-if50'), (ALLNC, 'cifar100-if100'), (ALLNC, 'cifar10-balanced'),
          (ALLNC, 'digits'), (ALLNC, 'ideas'), *((ALLNC, f'ablation {protocol}') for protocol in ablation.PROTOCOLS),
          ('docs/gnc.md', 'softmax-growth'), ('docs/speed.md', 'speed'), ('configs/seg/README.md', 'camvid')]
SCRIPTS = {**softmax_code.TABLES, **ablation.TABLES, 'summary': protocols.summary, 'speed': speed.table,
           'camvid': lambda: camvid.table(camvid.RESULTS)}


@pytest.mark.parametrize('page, mark', TABLES)
def test_the_page_has_the_table_that_the_logs_give(page, mark, tmp_path):
    copy = tmp_path / 'page.md'
    shutil.copy(ROOT / page, copy)
    text = SCRIPTS[mark]() if mark in SCRIPTS else protocols.table(mark)
    assert text.count('\n|') > 2
    markdown_tables.insert(copy, mark, text)
    assert copy.read_text() == (ROOT / page).read_text()


def test_the_own_columns_are_those_of_the_logs():
    pages = sorted((ROOT / 'configs').glob('*/README.md'))
    assert sum('<!-- own' in page.read_text() for page in pages) > 5
    for page in pages:
        assert protocols.with_own_columns(page.read_text()) == page.read_text(), page
    page = (ROOT / 'configs' / 'la' / 'README.md').read_text()
    row = next(line for line in page.splitlines() if 'la/resnet20_digits-lt ' in line)
    assert ' ± ' in row.split('|')[2]


def test_every_method_of_a_record_has_its_config():
    for protocol, (stem, _) in protocols.PROTOCOLS.items():
        for (name, _), record in protocols.results(protocol)[1].items():
            assert record['config'] == protocols.METHODS[name].format(stem)
            assert (ROOT / 'configs' / record['config']).is_file()


@pytest.mark.parametrize('study', [protocols, ablation])
def test_every_record_is_of_the_present_settings(study):
    args = argparse.Namespace(data_root=None)
    for protocol in study.PROTOCOLS:
        stale = [key for key, record in study.results(protocol)[1].items()
                 if record.get('settings') != study.job_fingerprint(args, protocol, *key)]
        assert not stale, f'{protocol}: the configs of {stale} have changed since they ran; `run {protocol}` runs them'


def test_a_fingerprint_sees_what_decides_the_network_alone():
    args = argparse.Namespace(data_root=None)
    config, options = protocols.job_settings(args, 'cifar10-if100', 'AllNC', 0)
    known = protocols.fingerprint_of(config, options)
    incidental = {'randomness.seed': 1, 'train_dataloader.dataset.data_root': 'elsewhere', 'work_dir': 'elsewhere',
                  'train_cfg.val_interval': 7, 'custom_hooks': [dict(type='CleanBNHook'),
                                                                dict(type='DeviceAugmentationHook')]}
    assert protocols.fingerprint_of(config, {**options, **incidental}) == known
    for change in ({'model.head.hycon.loss_weight': 0.4}, {'train_dataloader.dataset.n_max': 400},
                   {'custom_hooks': []}, {'optim_wrapper.optimizer.weight_decay': 1e-3}):
        assert protocols.fingerprint_of(config, {**options, **change}) != known
    done = {('AllNC', 0): dict(settings=known)}
    assert not protocols.is_missing(done, 'AllNC', 0, known)
    assert protocols.is_missing(done, 'AllNC', 1, known)
    assert protocols.is_missing(done, 'AllNC', 0, 'of other settings')


def test_a_second_stage_needs_its_first_one_with_the_present_settings(monkeypatch, tmp_path):
    args = argparse.Namespace(data_root=None, work_dirs=str(tmp_path))
    first, second = (protocols.job_fingerprint(args, 'cifar10-if100', name, 0) for name in ('CE', 'cRT'))
    assert second.startswith(f'{first}-')
    assert second != protocols.job_fingerprint(args, 'cifar10-if100', 'cRT + mixture', 0)
    work_dir = protocols.folder(args, 'cifar10-if100', 'CE', 0)
    work_dir.mkdir(parents=True)
    config, options = protocols.job_settings(args, 'cifar10-if100', 'CE', 0)
    (work_dir / 'epoch_160.pth').touch()

    def run(settings, **changes):
        monkeypatch.setattr(protocols, 'results', lambda protocol: (None, {('CE', 0): dict(settings=settings)}))
        cfg = Config.fromfile(config)
        cfg.merge_from_dict({**options, **changes})
        cfg.dump(work_dir / config.name)
        return protocols.finished_run(args, 'cifar10-if100', 'CE', 0)

    assert run(first) == (str(work_dir / config.name), str(work_dir / 'epoch_160.pth'))
    for settings, changes in (('of other settings', {}), (first, {'train_cfg.max_epochs': 1})):
        with pytest.raises(ValueError, match='not finished with its present settings'):
            run(settings, **changes)


def test_a_second_stage_starts_from_statistics_of_unmixed_images(tmp_path):
    cfg = Config.fromfile(ROOT / 'tests/data/tiny_digits.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.val_per_class = 24
    cfg.test_evaluator = cfg.val_evaluator = dict(type='LongTailMetric')
    config, mixed, out = str(tmp_path / 'config.py'), tmp_path / 'epoch_1.pth', tmp_path / 'out'
    cfg.dump(config)
    before = build_model(cfg).state_dict()
    torch.save(dict(state_dict=before), mixed)
    out.mkdir()
    plain = protocols.clean_checkpoint(config, str(mixed), out / 'plain.pth')
    cfg.model.train_cfg = dict(augments=dict(type='Mixup', alpha=1.0))
    cfg.dump(config)
    stage1 = protocols.clean_checkpoint(config, str(mixed), out / 'stage1.pth')
    plain, clean = (torch.load(path, weights_only=True)['state_dict'] for path in (plain, stage1))
    assert all(torch.equal(plain[name], clean[name]) for name in plain)
    moved = {name for name, value in clean.items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if 'running_' in name or 'num_batches' in name}

    result = protocols.tau_norm(config, stage1, out)
    assert set(result['tuned']) == {'running', 'precise'} and 0 <= result['test']['overall'] <= 100
    written = torch.load(out / 'epoch_0.pth', weights_only=True)['state_dict']
    assert {name for name, value in written.items() if not torch.equal(value, clean[name])} <= {
        'head.fc.weight', 'head.fc.bias'}

    del cfg.test_dataloader.dataset.val_per_class
    cfg.dump(config)
    protocols.tau_norm(config, stage1, out)
    chosen, rest = Config.fromfile(out / 'config.py').val_dataloader.dataset, cfg.test_dataloader.dataset
    chosen, rest = (DATASETS.build(data).get_gt_labels() for data in (chosen, rest))
    halves = np.bincount(rest) // 2
    assert len(halves) == 10 and np.array_equal(np.bincount(chosen), halves)


@pytest.mark.parametrize('name', protocols.SECOND_STAGE)
def test_a_second_stage_takes_the_clean_checkpoint(name, monkeypatch, tmp_path):
    def start(config, checkpoint, work_dir):
        return dict(started_from={checkpoint})

    def trained(config, options, work_dir, args):
        return dict(started_from={options[key] for key in protocols.SECOND_STAGE[name][1]})

    monkeypatch.setattr(protocols, 'finished_run', lambda *run: ('config.py', 'mixed.pth'))
    monkeypatch.setattr(protocols, 'clean_checkpoint', lambda config, checkpoint, path: f'{checkpoint} cleaned')
    monkeypatch.setattr(protocols, 'tau_norm', start)
    monkeypatch.setattr(protocols, 'train', trained)
    args = argparse.Namespace(data_root='somewhere', work_dirs=tmp_path)
    assert protocols.train_job(args, 'cifar10-if100', name, 0)['started_from'] == {'mixed.pth cleaned'}


@pytest.mark.parametrize('name', ['LA', 'cRT', 'tau-norm'])
def test_a_run_that_another_process_trains_is_left_to_it(name, tmp_path):
    args = argparse.Namespace(data_root='somewhere', work_dirs=tmp_path)
    run = protocols.folder(args, 'cifar10-if100', name, 0)
    run.mkdir(parents=True)
    (run / 'epoch_1.pth').touch()
    with FileLock(f'{run}.lock'), pytest.raises(ValueError, match='another process'):
        protocols.train_job(args, 'cifar10-if100', name, 0)
    assert (run / 'epoch_1.pth').exists()


def test_a_file_without_marks_is_refused(tmp_path):
    (tmp_path / 'empty.md').write_text('nothing')
    with pytest.raises(SystemExit, match='has no marks'):
        markdown_tables.insert(tmp_path / 'empty.md', 'digits', '')


@pytest.mark.parametrize('name', [name for name in ablation.JOBS if ablation.CLASS_MEANS not in name])
def test_each_job_of_the_ablation_changes_its_method(name):
    default = Config.fromfile(ablation.config_of(ablation.JOBS[name][0]))
    cfg = Config.fromfile(ablation.config_of(ablation.JOBS[name][0]))
    cfg.merge_from_dict(ablation.changes(name))
    assert cfg.to_dict() != default.to_dict()
    hooks = [hook['type'] for hook in cfg.get('custom_hooks', [])]
    assert {hook['type'] for hook in default.get('custom_hooks', [])} <= set(hooks) and len(hooks) == len(set(hooks))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        MODELS.build(cfg.model)
        Compose(cfg.train_dataloader.dataset.pipeline)


def test_the_tables_of_the_ablation_pair_seeds(monkeypatch):
    def record(name, seed, overall):
        accuracies = dict(overall=overall, few=2 * overall)
        worse = dict(overall=overall - 1, few=0)
        return dict(name=name, seed=seed, test=dict.fromkeys(ablation.GEOMETRY, 0.5),
                    tuned=dict(precise=dict(val=worse, val_tau0=worse),
                               running=dict(val=accuracies, val_tau0=accuracies)))

    switch, idea = next(iter(ablation.SWITCHES)), list(ablation.IDEAS)[1]
    runs = [record(ablation.DEFAULT, 0, 50), record(ablation.DEFAULT, 1, 60), record(switch, 1, 63),
            record(f'{idea}: {ablation.DEFAULT}', 0, 49), record(f'at alpha 1, {switch}', 0, 42),
            *(record(method, 0, 40) for method in ablation.IDEA_METHODS if method != ablation.DEFAULT)]
    monkeypatch.setattr(ablation, 'results', lambda protocol: (None, {(r['name'], r['seed']): r for r in runs}))
    monkeypatch.setattr(protocols, 'results', lambda protocol: (None, {}))
    lines = ablation.switches_table('cifar10-if100').splitlines()
    assert lines[-4].startswith('| default | 2 | 55.0 | 110.0 | 55.0 | 0.500 |')
    assert lines[-3].startswith('| MixUp or CutMix at alpha 1 | 1 | -10.0 | -20.0 | -10.0 | +0.000 |')
    assert lines[-2].startswith(f'| {switch} | 1 | +3.0 | +6.0 | +3.0 | +0.000 |')
    assert lines[-1].startswith(f'| at alpha 1, {switch} | 1 | +2.0 | +4.0 | +2.0 | +0.000 |')
    lines = ablation.ideas_table().splitlines()
    assert lines[-2] == '| none | ' + '40.0 / 80.0 (1) | ' * 4 + '55.0 / 110.0 (2) |'
    assert lines[-1] == f'| {idea} |  |  |  |  | -1.0 / -2.0 (1) |'


def test_the_lead_of_allnc_pairs_seeds(monkeypatch):
    def record(name, seed, overall, **more):
        kind = dict(tau=0.5, **{split: dict.fromkeys(('overall', 'many', 'medium', 'few'), overall)
                                for split in ('val', 'test')})
        worse = dict(kind, val=dict.fromkeys(kind['val'], overall - 5))
        return dict(name=name, seed=seed, minutes=1, test=dict.fromkeys(protocols.COLUMNS, overall),
                    tuned=dict(running=worse, precise=kind), **more)

    runs = [record('CE', 0, 40, best_epoch=42), record('CE', 1, 41), record('AllNC', 1, 45), record('AllNC', 2, 90)]
    runs[0]['minutes'] = None  # resumed
    monkeypatch.setattr(protocols, 'results', lambda protocol: (None, {(r['name'], r['seed']): r for r in runs}))
    first, second = (block.splitlines() for block in protocols.table('digits').split('\n\nWith'))
    assert first[2].endswith('| best epoch | minutes |')
    assert first[4].endswith('| +2.0 (1) | 1 |') and first[5].endswith('|  | 1 |')
    assert second[4] == '| CE | 2 | 0.50 | precise |' + ' 40.5 ± 0.7 |' * 4 + ' 4.0 (1) |'
    assert second[5].endswith('|  |')


@pytest.mark.parametrize('name', protocols.METHODS)
def test_cifar100_changes_classes_and_budget_alone(name):
    config = ROOT / 'configs' / protocols.METHODS[name].format(protocols.MINI)
    args = argparse.Namespace(data_root='somewhere')
    ten, hundred = Config.fromfile(config), Config.fromfile(config)
    hundred.merge_from_dict(protocols.settings(args, 'cifar100-if100', 3, config))
    assert hundred.train_dataloader.dataset.type == 'CIFAR100LT' and hundred.randomness.seed == 3
    args.data_root = None  # nor does it look for its images in the folder of CIFAR-10
    roots = {key: v for key, v in protocols.settings(args, 'cifar100-if100', 3, config).items() if 'data_root' in key}
    assert len(roots) == 3 and set(roots.values()) == {'data/cifar100'}
    assert hundred.data_preprocessor.mean != ten.data_preprocessor.mean
    views = ten.train_cfg.max_epochs / hundred.train_cfg.max_epochs
    assert views == (1 if name.startswith(('cRT', 'LWS')) else pytest.approx(160 / 30, rel=0.07))
    last = hundred.param_scheduler[-1]  # reaches 0 with the last iteration
    assert last.end == hundred.train_cfg.max_epochs and last.T_max == last.end - last.get('begin', 0)
    for part in (hundred.model.backbone, hundred.model.head):
        part.pop('init_cfg', None)  # of a second stage
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(hundred.model)
    lengths = {len(tensor) for tensor in model.head.state_dict().values() if tensor.ndim}
    assert 100 in lengths and 10 not in lengths


def test_the_ablation_keeps_its_changes_and_the_budget_of_cifar100():
    args, config = argparse.Namespace(data_root='somewhere'), ablation.config_of('AllNC')
    options = protocols.settings(args, 'cifar100-if100', 0, config, ablation.changes('two mixture views'))
    assert (options['train_cfg.max_epochs'], options['model.num_views']) == (15, 2)
    assert options['model.head.p2p.target'] == 'softmax_code'
    options = protocols.settings(args, 'cifar100-if100', 0, config, ablation.changes('P2P: hinge'))
    assert options['model.head.p2p.target'] == 'hinge'


@pytest.mark.slow
def test_the_parts_of_an_iteration():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        rows = {row.pop('part'): row for row in speed.measure_breakdown(rounds=1, epochs=2)}
    assert {'data set', 'augmentation, mixture', 'network', 'backward', 'optimiser', 'HyCon', 'P2P'} < set(rows)
    for part, row in rows.items():
        assert row['AllNC, ms'] > 0
        assert (row['CE + mixture, ms'] > 0) == (part not in ('HyCon', 'P2P'))
    assert rows['backward']['AllNC, ms'] > rows['optimiser']['AllNC, ms']  # whose sum is mmengine's update_params
