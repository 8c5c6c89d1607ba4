"""The examples in the docstrings of the mathematical core run as they stand."""
import doctest
import importlib
import pkgutil

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


def test_every_export_is_callable_or_a_constant():
    for name in MODULES:
        module = importlib.import_module(name)
        for export in module.__all__:
            assert getattr(allnc_mm.functional, export, None) is getattr(module, export), f'{name}.{export}'
