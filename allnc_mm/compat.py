"""Every workaround for the two OpenMMLab stacks, one function each.

Each docstring gives the reason and the condition under which the function does nothing. ``apply()`` runs those that
must precede the first import of torchvision, mmpretrain or mmseg; it is called once by ``import allnc_mm``.
"""
import functools
import importlib.util
import os
import pickle
import sys
import types
import warnings
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder, ModuleSpec
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
    extension = FileFinder(os.path.dirname(spec.origin), (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec('_C')
    try:
        torch.ops.load_library(extension.origin if extension else '')
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


def mmcv_warning() -> None:
    """Silence mmcv's warning, at every start, that it has no deformable attention, which nothing here uses.

    With a complete mmcv there is no such warning.
    """
    warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')


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


def loader_functions() -> None:
    """Let a data loader inherited as ``package::...`` name its ``collate_fn`` or ``worker_init_fn``.

    mmengine marks every typed dict of such a config with ``_scope_``. It takes the mark off where it builds an object,
    but these two name functions, which get it as an argument and fail (``default_collate() got an unexpected keyword
    argument '_scope_'``). On both stacks; without a mark nothing changes.
    """
    from mmengine.runner import Runner
    build = Runner.build_dataloader

    @functools.wraps(build)
    def build_dataloader(dataloader, *args, **kwargs):
        for name in ('collate_fn', 'worker_init_fn'):
            if isinstance(dataloader, dict) and isinstance(dataloader.get(name), dict):
                dataloader[name].pop('_scope_', None)
        return build(dataloader, *args, **kwargs)

    Runner.build_dataloader = staticmethod(build_dataloader)


@contextmanager
def _weights_only():
    """``torch.load`` reads tensors and allow-listed classes only, whatever its caller asks for."""
    name = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
    before = os.environ.get(name)
    os.environ[name] = '1'
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def safe_checkpoints() -> None:
    """Load checkpoints with ``weights_only=True`` on both stacks: ``load_from`` and ``resume``, files and addresses.

    The onedl stack retries a refused checkpoint with ``weights_only=False``, which runs whatever code its pickle
    holds, and downloads do so on both; the original stack refuses even its own checkpoints, because the message hub in
    them is not allow-listed. Here the classes that mmengine itself writes are allowed and nothing else, for every
    loader that mmengine knows. mmengine also pickles ``builtins.getattr`` (for HistoryBuffer's statistics); allowing
    that would hand out every attribute of every allowed class, so a version limited to those four names stands in.
    """
    import mmengine.runner.checkpoint as checkpoint_module
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    def history_statistic(owner, name):
        if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
            return getattr(owner, name)
        raise pickle.UnpicklingError(f'attribute {name!r} of {owner!r}, which mmengine never writes')

    multiarray = (getattr(np, '_core', None) or np.core).multiarray
    dtypes = ('bool', 'uint8', 'uint32', 'int32', 'int64', 'float16', 'float32', 'float64')
    safe = [HistoryBuffer, (history_statistic, 'builtins.getattr'), multiarray._reconstruct, multiarray.scalar,
            np.ndarray, np.dtype, *{type(np.dtype(name)) for name in dtypes}, slice]

    def guarded(loader):

        @functools.wraps(loader)
        def load(filename, *args, **kwargs):
            try:
                with torch.serialization.safe_globals(safe), _weights_only():
                    return loader(filename, *args, **kwargs)
            except pickle.UnpicklingError as error:
                # the error that torch wrapped into its long advice
                reason = (str(error.__context__ or error).strip() or 'unreadable').splitlines()[0].rstrip('.')
                raise pickle.UnpicklingError(
                    f'Checkpoint {filename} was refused and nothing of it was run, because it holds more than tensors '
                    f'and plain data: {reason}. If you trust its author, load it in a Python session of your own with '
                    'torch.load(..., weights_only=False) and save its state_dict alone.') from error

        return load

    if hasattr(checkpoint_module, '_safe_torch_load'):  # onedl: the function that falls back to weights_only=False
        checkpoint_module._safe_torch_load = \
            lambda file, map_location=None, weights_only=True: torch.load(file, map_location, weights_only=True)
    schemes = checkpoint_module.CheckpointLoader._schemes
    for prefix, loader in schemes.items():
        schemes[prefix] = guarded(loader)


class _DeferredRemoval:
    """A file backend that puts removals off until :meth:`flush`."""

    def __init__(self, backend):
        self._backend = backend
        self._pending = []

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def remove(self, path):
        self._pending.append((self._backend.remove, path))

    def rmtree(self, path):
        self._pending.append((self._backend.rmtree, path))

    def flush(self, keep):
        for remove, path in self._pending:
            if path not in keep:
                remove(path)


def atomic_checkpoints() -> None:
    """Keep a complete checkpoint on disk at every moment, so that a killed run can always be resumed.

    mmengine writes a checkpoint in place, so a kill tears it, and with ``max_keep_ckpts`` or ``save_best`` it removes
    the oldest or the former best one *before* it writes the new one, so ``max_keep_ckpts=1`` can leave none. Here a
    file is written beside its place and renamed, and removals wait for it. Neither stack does so by itself.
    """
    from mmengine.fileio import LocalBackend
    from mmengine.hooks import CheckpointHook

    def put(self, obj, filepath):
        filepath = os.path.abspath(filepath)
        os.makedirs(os.path.dirname(filepath), exist_ok=True)
        with open(filepath + '.tmp', 'wb') as file:
            file.write(obj)
            file.flush()
            os.fsync(file.fileno())
        os.replace(filepath + '.tmp', filepath)

    def removing_last(save):
        @functools.wraps(save)
        def wrapper(self, *args, **kwargs):
            backend, self.file_backend = self.file_backend, _DeferredRemoval(self.file_backend)
            try:
                save(self, *args, **kwargs)
                # a name may have been written anew
                best = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
                self.file_backend.flush(keep=[getattr(self, 'last_ckpt', None), *best])
            finally:
                self.file_backend = backend
        return wrapper

    LocalBackend.put = put
    for name in ('_save_checkpoint_with_step', '_save_best_checkpoint'):
        setattr(CheckpointHook, name, removing_last(getattr(CheckpointHook, name)))


def _plain_batchnorm(cfg) -> int:
    """Replace SyncBN by BN in place, and return how often."""
    children = list(cfg.values()) if isinstance(cfg, dict) else cfg if isinstance(cfg, (list, tuple)) else []
    found = 0
    if isinstance(cfg, dict) and cfg.get('type') in ('SyncBN', 'MMSyncBN'):
        cfg['type'] = 'BN'
        found = 1
    return found + sum(_plain_batchnorm(child) for child in children)


def cpu_launch(cfg) -> None:
    """Make ``--launcher pytorch`` and ``--amp`` work on a machine without CUDA, in place in ``cfg``.

    mmengine's ``init_dist`` calls ``torch.cuda.set_device`` unconditionally, its DDP wrapper asks for device ids,
    SyncBN exists on GPUs only, and ``AmpOptimWrapper`` asserts an accelerator (and the CPU's autocast knows bfloat16
    only). Off when CUDA is available or the config asks for neither.
    """
    if torch.cuda.is_available():
        return
    if cfg.get('launcher', 'none') == 'pytorch':
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group('gloo')
        given = cfg.get('model_wrapper_cfg') or dict(  # mmengine's own
            type='MMDistributedDataParallel', broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False))
        cfg.model_wrapper_cfg = dict(given, device_ids=None)
        replaced = _plain_batchnorm(cfg.model)
        if cfg.pop('sync_bn', None) or replaced:
            print('SyncBN needs GPUs: each process normalises with its own part of the batch (BN).', file=sys.stderr)
    wrapper = cfg.get('optim_wrapper') or {}
    kind = wrapper.get('type')
    if getattr(kind, '__name__', kind) == 'AmpOptimWrapper':
        wrapper['type'] = 'BFloat16OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)


def apply() -> None:
    """Run the fixes that must precede the first import of torchvision, mmpretrain or mmseg."""
    check_stack()
    torchvision_operators()
    mmcv_extension()
    mmcv_warning()
    config_packages()
    loader_functions()
    safe_checkpoints()
    atomic_checkpoints()
