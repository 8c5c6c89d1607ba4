import os
import subprocess
import sys
import warnings
from functools import partial
from importlib import resources

import numpy as np
import pytest
import torch

from allnc_mm import geometry_cache
from allnc_mm.functional import one_vs_rest_distance, softmax_code
from allnc_mm.geometry_cache import cached_softmax_code, dump_code, load_code

K, DIM = 7, 3


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(geometry_cache, 'softmax_code', partial(softmax_code, restarts=1, hops=0))  # a quick search
    monkeypatch.setenv('ALLNC_MM_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix == '.npz')


def test_computed_once(folder, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        code = cached_softmax_code(K, DIM)
    assert code.shape == (K, DIM) and code.dtype == torch.float64
    assert files(folder) == [f'softmax_code_K7_d3_seed0_v{geometry_cache.SOLVER}.npz']
    assert len(list(folder.iterdir())) == 2  # the code and its lock: no temporary file stays
    monkeypatch.setattr(geometry_cache, 'softmax_code', None)
    assert torch.equal(cached_softmax_code(K, DIM), code)


def test_closed_forms_are_not_stored(folder):
    assert cached_softmax_code(5, 4).shape == (5, 4) and not folder.exists()
    with pytest.raises(ValueError, match='at least 2'):
        cached_softmax_code(1, 4)
    with pytest.raises(ValueError, match='at least 1'):
        cached_softmax_code(4, 0)


@pytest.mark.parametrize('damage', ['truncated', 'bits', 'empty', 'pickle', 'shape'])
def test_a_damaged_file_is_computed_again(folder, damage):
    code = cached_softmax_code(K, DIM)
    path = folder / files(folder)[0]
    data = path.read_bytes()
    if damage == 'truncated':
        path.write_bytes(data[:len(data) // 2])
    elif damage == 'bits':  # valid as a file, but not the rows that were written
        with np.load(path) as arrays:
            rows, checksum = arrays['code'] + 1e-3, arrays['sha256']
        np.savez(path, code=rows, sha256=checksum)
    elif damage == 'empty':
        path.write_bytes(b'')
    elif damage == 'pickle':
        np.savez(path, code=np.array([print], dtype=object), sha256=np.zeros(32, np.uint8))
    else:
        path.write_bytes(dump_code(code[:-1]))
    with pytest.warns(UserWarning, match='damaged .* computed again'):
        assert torch.equal(cached_softmax_code(K, DIM), code)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.equal(cached_softmax_code(K, DIM), code)  # and it is whole again


def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('not a directory')
    monkeypatch.setenv('ALLNC_MM_CACHE', str(tmp_path / 'file' / 'cache'))
    with pytest.warns(UserWarning, match='computed each time. Set ALLNC_MM_CACHE'):
        assert cached_softmax_code(K, DIM).shape == (K, DIM)


def test_a_directory_that_can_only_be_read(folder, monkeypatch):
    code = cached_softmax_code(K, DIM)

    def refuse(*args, **kwargs):
        raise PermissionError('read-only')

    monkeypatch.setattr(geometry_cache, 'FileLock', refuse)
    monkeypatch.setattr(geometry_cache, 'softmax_code', refuse)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.equal(cached_softmax_code(K, DIM), code)


def test_processes_at_once(folder):
    script = 'from allnc_mm.geometry_cache import *; print(float(cached_softmax_code(7, 3).sum()))'
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    processes = [subprocess.Popen([sys.executable, '-c', script], env=environment, stdout=subprocess.PIPE, text=True)
                 for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0].split()[-1] for process in processes]
    assert outputs[0] == outputs[1] and len(files(folder)) == 1


SHIPPED = [path.name for path in (resources.files('allnc_mm') / 'codes').iterdir() if path.name.endswith('.npz')]


@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_codes(folder, name):
    path = resources.files('allnc_mm') / 'codes' / name
    num_classes, dim, seed = (int(part.lstrip('Kdse')) for part in name.split('_')[2:5])
    assert name == f'softmax_code_K{num_classes}_d{dim}_seed{seed}_v{geometry_cache.SOLVER}.npz'
    code = cached_softmax_code(num_classes, dim, seed=seed)
    assert torch.equal(code, load_code(path.read_bytes(), num_classes, dim)) and not folder.exists()
    lower, upper, _ = one_vs_rest_distance(code)
    published = {(10, 100): .61416, (20, 100): .8124, (30, 100): .8886, (10, 200): .5052, (20, 200): .7211,
                 (30, 200): .8053}
    assert upper - lower < 1e-7 and lower > published[dim, num_classes] + 0.02
