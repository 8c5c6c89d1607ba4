"""Every workaround for the two OpenMMLab stacks, one function each.

Each docstring gives the reason and the condition under which the function does nothing. ``apply()`` runs those that
must precede the first import of torchvision, mmpretrain or mmseg; it is called once by ``import allnc_mm``.
"""
import importlib.util
import os
import sys
import types
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, distribution

import torch

FAMILIES = {
    'onedl': ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain', 'onedl-mmsegmentation'),
    'openmmlab': ('mmengine', 'mmcv', 'mmcv-lite', 'mmpretrain', 'mmsegmentation'),
}
_KEEP_ALIVE = []  # torch.library objects unregister their operators when they are collected


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def check_stack() -> None:
    """Refuse an environment without OpenMMLab, or with both families of it.

    The distributions of the two families share their import names and overwrite each other's files, and pip does not
    notice; a mixture fails later and far away from its cause.

    Raises:
        ImportError: with one sentence that says what to install or uninstall.
    """
    found = {family: [name for name in names if _installed(name)] for family, names in FAMILIES.items()}
    if found['onedl'] and found['openmmlab']:
        raise ImportError(
            'allnc_mm found a torn mixture of two OpenMMLab stacks that overwrite each other\'s files; uninstall both '
            f'(pip uninstall -y {" ".join(found["onedl"] + found["openmmlab"])}) and then install one: '
            'pip install "allnc-mm[onedl]" or pip install "allnc-mm[openmmlab]".')
    missing = [name for name in ('mmengine', 'mmcv', 'mmpretrain') if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'allnc_mm needs an OpenMMLab stack, but {", ".join(missing)} cannot be imported; install '
                          'one: pip install "allnc-mm[onedl]" (default) or pip install "allnc-mm[openmmlab]".')


def torchvision_operators() -> None:
    """Let a CUDA build of torchvision be imported beside a CPU build of torch.

    Its compiled library cannot be loaded there, and the registration of its fake operators then fails with
    ``operator torchvision::nms does not exist`` (pytorch/vision#9085). Declaring the two schemas is enough; calling
    them still raises torchvision's own error. Off when torchvision is imported already, absent, or loads its library.
    """
    if 'torchvision' in sys.modules:
        return
    spec = importlib.util.find_spec('torchvision')
    if spec is None or spec.origin is None:
        return
    try:
        torch.ops.load_library(os.path.join(os.path.dirname(spec.origin), '_C.so'))
    except OSError:
        library = torch.library.Library('torchvision', 'FRAGMENT')
        for operator in ('nms', 'qnms'):
            library.define(operator + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        _KEEP_ALIVE.append(library)


def mmcv_extension() -> None:
    """Let ``mmseg.models`` of the original stack be imported with mmcv-lite, which has no compiled operators.

    mmsegmentation 1.2.2 imports ``mmcv.ops.point_sample`` unconditionally. Off when mmcv has its extension, and on
    the onedl stack, which guards these imports.
    """
    if _installed('onedl-mmcv') or importlib.util.find_spec('mmcv._ext') is not None:
        return

    def missing(name):
        if name.startswith('__'):
            raise AttributeError(name)

        def operator(*args, **kwargs):
            raise RuntimeError(f'mmcv operator {name} needs the compiled mmcv; mmcv-lite has none.')

        return operator

    stub = types.ModuleType('mmcv._ext')
    stub.__spec__ = ModuleSpec('mmcv._ext', loader=None)
    stub.__getattr__ = missing  # type: ignore[method-assign]
    sys.modules['mmcv._ext'] = stub


def config_packages() -> None:
    """Teach mmengine's ``package::path`` bases about ``allnc_mm::`` and, on the onedl stack, ``mmseg::``.

    The map is hard-coded in mmengine, and names distributions that the onedl family does not have. On the original
    stack ``get_installed_path`` also breaks for editable installs (it returns a folder that does not exist): there the
    imported package's own folder is the answer. Off where the map or the function is right already.
    """
    import mmengine.config.utils as config_utils
    config_utils.MODULE2PACKAGE.setdefault('allnc_mm', 'allnc_mm')
    if _installed('onedl-mmsegmentation'):
        config_utils.MODULE2PACKAGE['mmseg'] = 'mmseg'

    import mmengine.config.config as config_module
    import mmengine.utils.package_utils as package_utils
    original = package_utils.get_installed_path

    def get_installed_path(package):
        if package.replace('-', '_') == 'allnc_mm':
            return os.path.dirname(os.path.abspath(__file__))
        return original(package)

    for module in (config_utils, config_module, package_utils):
        if hasattr(module, 'get_installed_path'):
            module.get_installed_path = get_installed_path


def safe_checkpoints() -> None:
    """Load local checkpoints with ``weights_only=True`` on both stacks, ``load_from`` and ``resume`` alike.

    The onedl stack retries a refused checkpoint with ``weights_only=False``, which runs whatever code its pickle
    holds; the original stack refuses even its own checkpoints, because the message hub in them is not allow-listed.
    Here the classes that mmengine itself writes are allowed and nothing else. mmengine also pickles
    ``builtins.getattr`` (for HistoryBuffer's statistics); allowing that would hand out every attribute of every allowed
    class, so a version limited to those four names stands in for it.
    """
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer
    from mmengine.runner.checkpoint import CheckpointLoader

    def history_statistic(owner, name):
        if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
            return getattr(owner, name)
        raise ValueError(f'A checkpoint asks for attribute {name!r} of {owner!r}, which mmengine never writes: refused.')

    multiarray = getattr(np, '_core', None) or np.core
    safe = [HistoryBuffer, (history_statistic, 'builtins.getattr'), multiarray.multiarray._reconstruct,
            multiarray.multiarray.scalar, np.ndarray, np.dtype, slice]
    safe += sorted({type(np.dtype(t)) for t in (np.uint32, np.int64, np.float32, np.float64)}, key=str)

    def load_from_local(filename, map_location=None):
        filename = os.path.expanduser(filename)
        if not os.path.isfile(filename):
            raise FileNotFoundError(f'Checkpoint {filename} does not exist; give the path of a .pth file.')
        with torch.serialization.safe_globals(safe):
            return torch.load(filename, map_location=map_location, weights_only=True)

    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)


def cpu_launch(cfg) -> None:
    """Make ``--launcher pytorch`` and ``--amp`` work on a machine without CUDA, in place in ``cfg``.

    mmengine's ``init_dist`` calls ``torch.cuda.set_device`` unconditionally, its DDP wrapper asks for device ids, and
    its ``AmpOptimWrapper`` asserts an accelerator. Off when CUDA is available or the config is neither.
    """
    if torch.cuda.is_available():
        return
    if cfg.get('launcher', 'none') == 'pytorch':
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group('gloo')
        cfg.model_wrapper_cfg = dict(dict(type='MMDistributedDataParallel'), **cfg.get('model_wrapper_cfg', {}),
                                     device_ids=None)
    wrapper = cfg.get('optim_wrapper') or {}
    if wrapper.get('type') == 'AmpOptimWrapper':
        wrapper['type'] = 'BFloat16OptimWrapper'
        for key in ('loss_scale', 'dtype'):
            wrapper.pop(key, None)


def apply() -> None:
    """Run the fixes that must precede the first import of torchvision, mmpretrain or mmseg."""
    check_stack()
    torchvision_operators()
    mmcv_extension()
    config_packages()
    safe_checkpoints()
