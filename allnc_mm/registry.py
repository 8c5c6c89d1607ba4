"""Where components register, and why.

They register in mmengine's *root* registries, so that ``type='P2PLoss'`` works unprefixed in mmpretrain, mmseg and
mmdet configs alike: a child registry falls back to its root.

A config inherited as ``allnc_mm::...`` has ``_scope_='allnc_mm'`` injected into each of its typed dicts. The registries
below give that scope a meaning: they are empty children of mmpretrain's, so plain names of allnc_mm, mmpretrain and
mmengine all resolve from it. A child looks names up in its parent without importing the parent's modules, so each names
those (``locations``) too.
"""
import mmpretrain.registry as _mmpretrain
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    TRANSFORMS,
    VISUALIZERS,
    Registry,
)

__all__ = ['DATASETS', 'DATA_SAMPLERS', 'HOOKS', 'METRICS', 'MODELS', 'OPTIM_WRAPPERS', 'TRANSFORMS', 'VISUALIZERS']

_SCOPED = [
    Registry(parent.name, parent=parent, scope='allnc_mm', locations=['allnc_mm', *parent._locations])
    for parent in vars(_mmpretrain).values()
    if isinstance(parent, Registry) and parent.scope == 'mmpretrain'
]


def _descendants(registry: Registry):
    for child in registry.children.values():
        yield child
        yield from _descendants(child)


def check_names() -> None:
    """Refuse a name that a loaded library has registered too: its child registry would silently shadow ours.

    Raises:
        ImportError: naming both classes.
    """
    for root in [registry.root for registry in _SCOPED]:
        ours = {name: kind for name, kind in root.module_dict.items() if kind.__module__.startswith('allnc_mm.')}
        for child in _descendants(root):
            for name in ours.keys() & child.module_dict.keys():
                if child.module_dict[name] is not ours[name]:
                    raise ImportError(
                        f'{root.name} {name!r} is registered by both {ours[name].__module__} and '
                        f'{child.module_dict[name].__module__}; a config could not tell them apart. Remove or rename '
                        'one.')
