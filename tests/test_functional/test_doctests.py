"""The examples in the docstrings of the mathematical core run as they stand."""
import doctest
import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import allnc_mm.functional

MODULES = [module.name for module in pkgutil.iter_modules(allnc_mm.functional.__path__, 'allnc_mm.functional.')]


@pytest.mark.parametrize('name', MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    globs = dict(vars(module), torch=torch, np=np, numpy=np)
    result = doctest.testmod(module, globs=globs, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted, f'{name} has no example'
    assert not result.failed


def test_the_core_needs_torch_and_numpy_alone(tmp_path):
    """A copy of it, imported without allnc_mm and OpenMMLab."""
    shutil.copytree(Path(allnc_mm.functional.__file__).parent, tmp_path / 'core')
    block = ''.join(f'sys.modules[{name!r}] = None; ' for name in ('allnc_mm', 'mmengine', 'mmcv', 'mmpretrain'))
    subprocess.run([sys.executable, '-c', f'import sys; {block}import core; core.simplex_etf(3, 2)'], cwd=tmp_path,
                   check=True, env=dict(os.environ, PYTHONPATH=str(tmp_path)))


def test_the_package_exports_them_all_and_no_name_twice():
    exports = [(name, export) for name in MODULES for export in importlib.import_module(name).__all__]
    for name, export in exports:
        assert getattr(allnc_mm.functional, export, None) is getattr(importlib.import_module(name), export), export
    assert len({export for _, export in exports}) == len(exports)
