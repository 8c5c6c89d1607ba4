"""Where components register, and why.

They register in mmengine's *root* registries, so that ``type='P2PLoss'`` works unprefixed in mmpretrain, mmseg and
mmdet configs alike: a child registry falls back to its root.

A config inherited as ``allnc_mm::...`` has ``_scope_='allnc_mm'`` injected into each of its typed dicts. The registries
below give that scope a meaning: they are empty children of mmpretrain's, so plain names of allnc_mm, mmpretrain and
mmengine all resolve from it.
"""
import mmpretrain.registry as _mmpretrain
from mmengine.registry import (DATA_SAMPLERS, DATASETS, HOOKS, METRICS, MODELS, OPTIM_WRAPPERS, TRANSFORMS, VISUALIZERS,
                               Registry)

__all__ = ['DATASETS', 'DATA_SAMPLERS', 'HOOKS', 'METRICS', 'MODELS', 'OPTIM_WRAPPERS', 'TRANSFORMS', 'VISUALIZERS']

_SCOPED = [
    Registry(parent.name, parent=parent, scope='allnc_mm', locations=['allnc_mm'])
    for parent in vars(_mmpretrain).values()
    if isinstance(parent, Registry) and parent.scope == 'mmpretrain'
]


def check_names() -> None:
    """Refuse a name that mmpretrain has registered too: its child registry would silently shadow ours.

    Raises:
        ImportError: naming both classes.
    """
    for registry in _SCOPED:
        parent, root = registry.parent, registry.root
        for name, ours in root.module_dict.items():
            theirs = parent.module_dict.get(name)
            if ours.__module__.startswith('allnc_mm.') and theirs is not None and theirs is not ours:
                raise ImportError(f'{root.name} {name!r} is registered by both {ours.__module__} and '
                                  f'{theirs.__module__}; a config could not tell them apart. Remove or rename one.')
