"""Fixtures of the whole suite."""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope

import allnc_mm  # noqa: F401  before mmpretrain, so that any test file runs alone


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Folder with the packed data sets: ``$ALLNC_SHARED``, or ``shared/data`` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / 'shared' / 'data'
    folder = Path(os.environ.get('ALLNC_SHARED', beside))
    if not (folder / 'unpack.py').is_file():
        pytest.skip(f'The packed data sets are not in {folder}; set ALLNC_SHARED to their folder.')
    return folder


@pytest.fixture(scope='session')
def cifar_root(shared_data) -> Path:
    """Folder with cifar10/ and cifar100/ unpacked.

    It outlives the run, and parallel runs share it: unpack.py checks what it writes, leaves a set that is there alone,
    and gives a set its name only when it is whole.
    """
    root = Path(tempfile.gettempdir()) / f'allnc_mm-test-data-{os.getuid()}'
    for name in ('cifar10', 'cifar100'):
        command = [sys.executable, str(shared_data / 'unpack.py'), str(root), name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f'unpack.py {root} {name} failed: {done.stderr}')
    return root


@pytest.fixture(autouse=True)
def no_default_scope():
    """A runner's default scope outlives it: what a test finds in the registries would depend on those before it."""
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def torch_load_as_users_have_it(monkeypatch):
    """The tools set this variable when they are imported, which tests do; it would hide what a test of ours refuses."""
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', raising=False)


@pytest.fixture
def largest_tensor():
    """A context; afterwards ``numel`` of what it yields is that of the largest tensor that was computed in it."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    self.numel = max(self.numel, tensor.numel())
            return out

    return Largest()
