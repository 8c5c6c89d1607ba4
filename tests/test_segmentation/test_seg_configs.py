"""Every config under configs/seg is parsed and its model built; the tools train, resume and test one."""
import functools
import importlib.util
import json
from pathlib import Path

import mmengine.config.utils
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader
from PIL import Image

import allnc_mm.segmentation
from allnc_mm.segmentation.segmentors import AllNCSegmentor

from mmseg.registry import MODELS  # isort: skip

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / 'configs' / 'seg').glob('*.py'))
CLASSES = {'camvid': 11, 'cityscapes': 19, 'ade20k': 150, 'coco-stuff164k': 171}
PARTS = {'': set(), 'weighted': set(), 'bs': set(), 'etf': {'classifier'}, 'ceco': {'center'},
         'ceco-frozen': {'center'}, 'p2p': {'p2p'}, 'hycon': {'hycon'}, 'gbbn': {'gbbn'},
         'allnc': {'gbbn', 'hycon', 'p2p'}}


@pytest.fixture(autouse=True)
def scope(monkeypatch):
    # mmengine reads all 53 metafiles of mmseg for each `mmseg::` base
    monkeypatch.setattr(mmengine.config.utils, '_get_cfg_metainfo', METAINFO)
    init_default_scope('mmseg')
    yield
    DefaultScope._instance_dict.clear()


METAINFO = functools.lru_cache(mmengine.config.utils._get_cfg_metainfo)
load_config = functools.lru_cache(Config.fromfile)


def parts_of(model):
    if not isinstance(model, AllNCSegmentor):
        return set()
    found = {'gbbn'} if model.bilateral else set()
    if type(model.decode_head.conv_seg).__name__ == 'FixedClassifier':
        found.add('classifier')
    if model.center is not None:
        found.add('center')
    return found | {name for name in ('hycon', 'p2p') if getattr(model.geometry, name, None) is not None}


@pytest.mark.parametrize('path', CONFIGS, ids=[path.stem for path in CONFIGS])
def test_config(path):
    cfg = load_config(path)
    assert cfg.custom_imports.imports == ['allnc_mm', 'allnc_mm.segmentation'] and cfg.default_scope == 'mmseg'
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'optim_wrapper', 'auto_scale_lr'):
        assert cfg.get(key), f'{key} is missing'
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters
    assert {'class_counts', 'attach_metrics', 'epoch_seed', 'finite_loss'} <= set(cfg.default_hooks)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert [metric.type for metric in evaluator] == ['LongTailIoUMetric', 'PixelCollapseMetric']

    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    data = next(name for name in CLASSES if name in path.stem)
    heads = [model.decode_head, *filter(None, [getattr(model, key, None) for key in ('auxiliary_head', 'center')])]
    assert {head.num_classes for head in heads} == {CLASSES[data]}
    assert tuple(cfg.model.data_preprocessor.size) == tuple(cfg.crop_size)

    name = path.stem.split('_')[-1]
    name = name if name in PARTS else ''
    base = load_config(path.with_name(path.name.removesuffix(f'_{name}.py' if name else '.py') + '.py'))
    assert parts_of(model) == PARTS[name]
    # every row sees the same images: half of a batch of GBBN are rare-class crops
    rare = cfg.train_dataloader.get('batch_sampler', {}).get('type') == 'RareClassSampler'
    assert rare == ('gbbn' in PARTS[name]) == ('gbbn' in cfg.default_hooks)
    assert cfg.train_dataloader.batch_size * (1 + rare) == base.train_dataloader.batch_size
    assert cfg.train_cfg == base.train_cfg and cfg.optim_wrapper == base.optim_wrapper
    crops = [t for t in cfg.train_dataloader.dataset.pipeline if 'Crop' in t.type]
    expected = [t for t in base.train_dataloader.dataset.pipeline if 'Crop' in t.type]
    assert [t.type for t in crops] == ['RareClassCrop' if rare else 'RandomCrop']
    assert (crops[0].crop_size, crops[0].cat_max_ratio) == (expected[0].crop_size, expected[0].cat_max_ratio)
    if name == 'weighted':
        assert [hook.type for hook in cfg.custom_hooks] == ['SegClassWeightsHook']
    if name == 'bs':
        assert type(model.decode_head.loss_decode).__name__ == 'LogitAdjustedSegLoss'
    if 'ceco' in name:
        assert any(p.requires_grad for p in model.center.parameters()) == (name == 'ceco')


# ---------- tools
def load_tool(name):
    spec = importlib.util.spec_from_file_location(f'seg_tool_{name}', ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tool_arguments(root, work_dir, iters):
    """The AllNC config of the benchmark, at the size of a test."""
    options = [f'{split}_dataloader.dataset.{key}' for split in ('train', 'val', 'test')
               for key in (f'data_root={root}', 'memory_size=(64,48)')]
    options += ['train_dataloader.batch_size=2', 'train_dataloader.dataset.pipeline.0.scale=(64,48)',
                'train_dataloader.dataset.pipeline.1.crop_size=(32,48)', 'model.data_preprocessor.size=(32,48)',
                'model.decode_head.channels=16', 'model.backbone.base_channels=8', 'model.backbone.stem_channels=8',
                'model.decode_head.in_channels=64', 'model.decode_head.c1_channels=8',
                'model.decode_head.c1_in_channels=8',
                f'train_cfg.max_iters={iters}', 'train_cfg.val_interval=4', 'default_hooks.checkpoint.interval=2',
                'default_hooks.logger.interval=1', 'param_scheduler.1.end=4', 'param_scheduler.1.begin=1',
                'param_scheduler.0.end=1', 'train_dataloader.pin_memory=False']
    config = str(ROOT / 'configs' / 'seg' / 'deeplabv3plus_r18_camvid-mini_allnc.py')
    return [config, '--work-dir', str(work_dir)], ['--cfg-options', *options]


def run_tool(monkeypatch, name, command):
    monkeypatch.setattr('sys.argv', [name, *command])
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')  # the tools set it for their whole process
    load_tool(name).main()


@pytest.fixture(scope='module')
def uncut(tiny_camvid, tmp_path_factory):
    """A training of four iterations."""
    work_dir = tmp_path_factory.mktemp('uncut')
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(mmengine.config.utils, '_get_cfg_metainfo', METAINFO)
        config, options = tool_arguments(tiny_camvid, work_dir, 4)
        run_tool(monkeypatch, 'train', [*config, *options, f'experiment_name={work_dir.name}'])
    return work_dir


def test_train_tool_trains_and_validates(uncut):
    assert (uncut / 'iter_4.pth').is_file()
    log = next(uncut.glob('*/*.log')).read_text()
    for name in ('loss_rebalanced', 'loss_hycon', 'loss_p2p', 'eta: 0.129', 'mIoU_tail', 'collapse/nc1'):
        assert name in log, name


def test_a_resumed_training_equals_the_uncut_one(uncut, tiny_camvid, tmp_path, monkeypatch):
    config, options = tool_arguments(tiny_camvid, tmp_path, 4)
    (tmp_path / 'iter_2.pth').write_bytes((uncut / 'iter_2.pth').read_bytes())
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    run_tool(monkeypatch, 'train', [*config, '--resume', *options, f'experiment_name={tmp_path.name}'])
    first, second = (CheckpointLoader.load_checkpoint(str(folder / 'iter_4.pth'))['state_dict']
                     for folder in (uncut, tmp_path))
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


def test_test_tool_evaluates(uncut, tiny_camvid, tmp_path, monkeypatch):
    config, options = tool_arguments(tiny_camvid, tmp_path, 4)
    out = tmp_path / 'metrics.json'
    run_tool(monkeypatch, 'test', [config[0], str(uncut / 'iter_4.pth'), *config[1:], '--out', str(out), '--out-item',
                                   'metrics', *options, f'experiment_name={tmp_path.name}_test'])
    metrics = json.loads(out.read_text())
    assert {'mIoU', 'mIoU_tail', 'collapse/nc1', 'collapse/tail_cosine'} <= set(metrics)


def test_a_label_out_of_range_stops_the_tool_before_training(make_camvid, tmp_path, monkeypatch, capsys):
    root = make_camvid(tmp_path / 'camvid')
    Image.new('L', (64, 48), 40).save(root / 'trainannot' / 'Seq0_000.png')
    config, options = tool_arguments(root, tmp_path / 'work', 4)
    with pytest.raises(SystemExit) as stopped:
        run_tool(monkeypatch, 'train', [*config, *options, f'experiment_name={tmp_path.name}'])
    assert stopped.value.code == 1
    assert 'Seq0_000.png holds the labels [40], but there are 11 classes' in capsys.readouterr().err


def test_segmentation_is_not_imported_by_classification():
    assert allnc_mm.segmentation not in vars(allnc_mm.engine).values()
    source = (ROOT / 'allnc_mm' / '__init__.py').read_text()
    assert 'import segmentation' not in source
