"""Softmax codes that were computed once: shipped with the package, or kept in the user's cache directory."""
import hashlib
import io
import os
import warnings
from importlib import resources
from pathlib import Path

import numpy as np
import platformdirs
import torch
from filelock import FileLock
from torch import Tensor

from .fileio import whole_file
from .functional.softmax_codes import softmax_code
from .functional.structured_codes import exact_code

SOLVER = 1  # raise it when softmax_code finds other codes: those of before are computed again


def cached_softmax_code(num_classes: int, dim: int, *, seed: int = 0) -> Tensor:
    """:func:`allnc_mm.functional.softmax_code`, searched for only once.

    Codes known in closed form are built. Others come from the package, where the common ones are, or else from the
    cache directory: ``$ALLNC_MM_CACHE``, by default the user's (on Linux ``~/.cache/allnc_mm``). A file is written
    under another name and then renamed, holds a checksum, and is loaded without pickle; a damaged one is computed
    again, with a warning. Processes that want the same code at once wait for the one that computes it. Where nothing
    can be written, the code is computed each time, with a warning.

    Args:
        num_classes (int): Number of classes K, at least 2.
        dim (int): Feature dimension d, at least 1; at least 2 for K > 2.
        seed (int): Seed of the search. Defaults to 0.

    Returns:
        Tensor: float64 of shape (K, d), unit rows; a file of more than 4 million entries holds them in float32.

    Raises:
        ValueError: if K < 2, d < 1, or K > 2 with d = 1.
    """
    code = exact_code(num_classes, dim, seed=seed) if num_classes >= 2 and dim >= 1 else None
    if code is not None:
        return code
    name = f'softmax_code_K{num_classes}_d{dim}_seed{seed}_v{SOLVER}.npz'
    shipped = resources.files('allnc_mm') / 'codes' / name
    if shipped.is_file():
        return load_code(shipped.read_bytes(), num_classes, dim)
    path = cache_directory() / name

    def kept() -> Tensor | None:
        try:
            return load_code(path.read_bytes(), num_classes, dim)
        except FileNotFoundError:
            return None
        except ValueError as error:
            warnings.warn(f'The cached softmax code {path} is damaged ({error}); it is computed again.', stacklevel=3)
            return None

    try:
        code = kept()  # without the lock: a file is written whole, and the directory may be read-only
        if code is not None:
            return code
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{path}.lock'):
            code = kept()  # another process may have been faster
            if code is not None:
                return code
            code = softmax_code(num_classes, dim, seed=seed)
            _write(path, dump_code(code))
    except OSError as error:
        warnings.warn(f'No softmax code can be kept in {path.parent} ({error}): it is computed each time. Set '
                      'ALLNC_MM_CACHE to a directory that can be written.', stacklevel=2)
    return softmax_code(num_classes, dim, seed=seed) if code is None else code


def cache_directory() -> Path:
    """pathlib.Path: Where codes are kept; it need not exist."""
    return Path(os.environ.get('ALLNC_MM_CACHE') or platformdirs.user_cache_dir('allnc_mm', appauthor=False))


def dump_code(code: Tensor) -> bytes:
    """A code as the bytes of a file: an .npz with its rows and their SHA-256."""
    rows = code.double().numpy() if code.numel() <= 2**22 else code.float().numpy()
    file = io.BytesIO()
    np.savez(file, code=rows, sha256=np.frombuffer(hashlib.sha256(rows.tobytes()).digest(), dtype=np.uint8))
    return file.getvalue()


def load_code(data: bytes, num_classes: int, dim: int) -> Tensor:
    """The float64 code of :func:`dump_code`; a ValueError for anything else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            rows, checksum = arrays['code'], arrays['sha256']
    except Exception as error:  # what a damaged zip raises depends on where it is damaged
        raise ValueError(f'not readable: {error}') from error
    if hashlib.sha256(rows.tobytes()).digest() != checksum.tobytes():
        raise ValueError('wrong checksum')
    if rows.shape != (num_classes, dim):
        raise ValueError(f'shape {rows.shape} instead of {(num_classes, dim)}')
    return torch.from_numpy(rows.astype(np.float64))


def _write(path: Path, data: bytes) -> None:
    with whole_file(path) as part, open(part, 'wb') as file:
        file.write(data)
