import mmpretrain.registry
import mmseg.registry  # noqa: F401
import pytest
from mmengine import registry as root
from mmengine.registry import DefaultScope

import allnc_mm  # noqa: F401
from allnc_mm.registry import _SCOPED, check_names

# what a config inherited as allnc_mm::... may name, with _scope_='allnc_mm': ours, mmpretrain's, mmengine's, mmcv's
NAMES = [
    (root.MODELS, 'ResNetCIFAR6n2'), (root.MODELS, 'ImageClassifier'), (root.MODELS, 'BN'),
    (root.DATASETS, 'DigitsLT'), (root.DATASETS, 'CIFAR10'), (root.DATASETS, 'RepeatDataset'),
    (root.DATA_SAMPLERS, 'RepeatAugSampler'), (root.DATA_SAMPLERS, 'DefaultSampler'),
    (root.TRANSFORMS, 'PackInputs'), (root.TRANSFORMS, 'LoadImageFromFile'),
    (root.HOOKS, 'FiniteLossHook'), (root.HOOKS, 'VisualizationHook'), (root.HOOKS, 'CheckpointHook'),
    (root.OPTIM_WRAPPERS, 'BFloat16OptimWrapper'), (root.OPTIM_WRAPPERS, 'OptimWrapper'),
    (root.OPTIMIZERS, 'SGD'), (root.PARAM_SCHEDULERS, 'CosineAnnealingLR'), (root.LOOPS, 'EpochBasedTrainLoop'),
    (root.METRICS, 'LongTailMetric'), (root.METRICS, 'Accuracy'), (root.EVALUATOR, 'Evaluator'),
    (root.VISUALIZERS, 'UniversalVisualizer'), (root.VISBACKENDS, 'LocalVisBackend'),
]


@pytest.mark.parametrize('registry, name', NAMES, ids=[name for _, name in NAMES])
@pytest.mark.parametrize('default', ['mmpretrain', 'mmengine'])
def test_scope_resolves(registry, name, default):
    with DefaultScope.overwrite_default_scope(default), registry.switch_scope_and_registry('allnc_mm') as found:
        assert found.scope == 'allnc_mm' and found.get(name) is not None


def test_scope_builds():
    with DefaultScope.overwrite_default_scope('mmengine'):
        neck = root.MODELS.build(dict(type='GlobalAveragePooling', _scope_='allnc_mm'))
        hook = root.HOOKS.build(dict(type='FiniteLossHook', interval=3, _scope_='allnc_mm'))
    assert type(neck).__module__.startswith('mmpretrain.') and hook.interval == 3


@pytest.mark.parametrize('default', ['mmpretrain', 'mmseg', 'mmengine'])
def test_our_names_need_no_prefix_anywhere(default):
    with DefaultScope.overwrite_default_scope(default):
        assert root.MODELS.build(dict(type='ResNetCIFAR6n2', depth=20, base_channels=4)).feat_dim == 16


def test_a_name_that_mmpretrain_has_too_is_refused(monkeypatch):
    ours = root.MODELS.module_dict['ResNetCIFAR6n2']
    monkeypatch.setitem(root.MODELS.module_dict, 'ResNet', ours)
    with pytest.raises(ImportError, match=r"'ResNet' is registered by both allnc_mm\..*mmpretrain\..*[Rr]ename"):
        check_names()
    monkeypatch.undo()
    assert mmpretrain.registry.MODELS.module_dict['ResNet'] is not ours


def test_no_name_of_ours_is_one_of_mmpretrain_or_mmseg():
    for registry in _SCOPED:
        for child in registry.root.children.values():  # mmpretrain's and mmseg's, all their modules loaded
            child.import_from_location()
    check_names()
    assert root.MODELS.children['mmseg'].module_dict
