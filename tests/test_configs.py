"""Every config under configs/ is parsed and its model built; a number that is stated twice must agree."""
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

import allnc_mm  # noqa: F401

from mmpretrain.registry import MODELS  # isort: skip

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / 'configs').glob('[!_]*/*.py'))
CLASSIFICATION = [path for path in CONFIGS if not path.startswith('configs/seg/')]  # tests/test_segmentation has those


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


@pytest.mark.parametrize('path', CLASSIFICATION)
def test_config_is_complete_and_its_model_builds(path):
    cfg = Config.fromfile(ROOT / path)
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator',
                'optim_wrapper', 'param_scheduler', 'train_cfg', 'auto_scale_lr'):
        assert cfg.get(key), f'{key} is missing'
    assert 'allnc_mm' in cfg.custom_imports.imports
    assert {'class_counts', 'epoch_seed', 'finite_loss'} <= set(cfg.default_hooks)

    model_cfg = cfg.model
    model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(model_cfg)
    classes = model.head.num_classes
    dataset = cfg.train_dataloader.dataset
    expected = dict(CIFAR10LT=10, DigitsLT=10, CIFAR100LT=100).get(dataset.type) or dataset.num_classes
    assert classes == expected

    bilateral = cfg.train_dataloader.get('batch_sampler', {}).get('type') == 'BilateralSampler'
    assert bilateral == getattr(model, 'bilateral', False)
    assert any(hasattr(part, 'set_eta') for part in model.modules()) == ('gbbn' in cfg.default_hooks)
    views = sum(sum(t.num_views) for t in dataset.pipeline if t.type == 'MultiView') or 1
    assert views == getattr(model, 'num_views', getattr(model.head, 'num_views', 1))
    # the schedule ends with the training
    ends = [s.end for s in cfg.param_scheduler if 'end' in s and s.type == 'CosineAnnealingLR']
    assert all(end == cfg.train_cfg.max_epochs for end in ends)


def test_imbalance_factor_is_the_same_in_all_splits_and_in_the_name():
    checked = 0
    for path in CONFIGS:
        if '-if' not in path:
            continue
        cfg = Config.fromfile(ROOT / path)
        factor = int(Path(path).stem.split('-if')[1].split('_')[0])
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            assert cfg[loader].dataset.imb_factor == factor, (path, loader)
        checked += 1
    assert checked > 10


def test_every_folder_has_its_readme_and_lists_its_configs():
    import yaml
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    folders = {Path(path).parent for path in CONFIGS}
    assert {Path(path).parent for path in index} == folders
    for folder in folders:
        assert (ROOT / folder / 'README.md').is_file()
        models = yaml.safe_load((ROOT / folder / 'metafile.yml').read_text())['Models']
        assert sorted(m['Config'] for m in models) == [c for c in CONFIGS if Path(c).parent == folder]
