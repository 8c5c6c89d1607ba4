from __future__ import annotations

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from mmengine.logging import print_log
from mmseg.datasets.transforms import LoadAnnotations

from ...fileio import whole_file

__all__ = ['pixel_counts', 'set_num_per_class']


def pixel_counts(dataset) -> np.ndarray:
    """Labelled pixels of each class in each image of a segmentation data set.

    The label maps are read as the data set's own ``LoadAnnotations`` reads them (``reduce_zero_label`` and custom
    classes included), once: the result is kept in ``$XDG_CACHE_HOME/allnc_mm`` (default ``~/.cache/allnc_mm``) until a
    file, its date or a setting changes. Their sum over the images becomes ``metainfo['num_per_class']`` of the data
    set, where it has none.

    Args:
        dataset (BaseSegDataset): Any data set of mmseg, or a wrapper around some.

    Returns:
        np.ndarray: (number of images, K) int64. An image without any labelled pixel has a row of zeros.

    Raises:
        FileNotFoundError: if a label map is missing.
        ValueError: if the data set names no classes, a label is neither one of them nor ``ignore_index``, or the
            metainfo has other counts.
    """
    classes = dataset.metainfo.get('classes')
    if not classes:
        raise ValueError(f"{type(dataset).__name__} has no metainfo['classes'], so its label maps cannot be counted; "
                         'give metainfo=dict(classes=(...)).')
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    part = _first_part(dataset)
    ignore_index = getattr(part, 'ignore_index', 255)
    loader = next((t for t in getattr(getattr(part, 'pipeline', None), 'transforms', ())
                   if isinstance(t, LoadAnnotations)), None)
    if loader is None:
        loader = LoadAnnotations(backend_args=getattr(part, 'backend_args', None))

    cache = _cache_file(infos, [len(classes), ignore_index, repr(loader)])
    counts = _read_cache(cache, (len(infos), len(classes)))
    if counts is None:
        if cache is not None:
            print_log(f'Counting the pixels of {len(infos)} label maps; kept in {cache} for the next time.',
                      logger='current', level=logging.INFO)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            rows = list(pool.map(lambda info: _count(info, loader, len(classes), ignore_index), infos))
        counts = np.asarray(rows, dtype=np.int64).reshape(len(infos), len(classes))
        _write_cache(cache, counts)
    given, found = dataset.metainfo.get('num_per_class'), counts.sum(0).tolist()
    if given is None:
        dataset._metainfo['num_per_class'] = found
    elif list(given) != found:
        raise ValueError(f"metainfo['num_per_class'] of the training data set is {list(given)[:10]}, but its label "
                         f'maps have {found[:10]} pixels; remove it from the config.')
    return counts


def set_num_per_class(dataset) -> list[int]:
    """``metainfo['num_per_class']`` of a segmentation data set, counted by :func:`pixel_counts` where it has none."""
    if dataset.metainfo.get('num_per_class') is None:
        pixel_counts(dataset)
    return list(dataset.metainfo['num_per_class'])


def _first_part(dataset):
    """The (first) data set below mmengine's wrappers."""
    while True:
        if hasattr(dataset, 'datasets'):
            dataset = dataset.datasets[0]
        elif hasattr(dataset, 'dataset'):
            dataset = dataset.dataset
        else:
            return dataset


def _count(info: dict, loader: LoadAnnotations, num_classes: int, ignore_index: int) -> np.ndarray:
    name = info.get('seg_map_path', 'a label map')
    if 'gt_seg_map' in info:  # the data set holds its label maps in memory
        labels = info['gt_seg_map']
    else:
        try:
            labels = loader(dict(info, seg_fields=[]))['gt_seg_map']
        except FileNotFoundError:
            raise _missing(name) from None
    found = np.bincount(labels.ravel(), minlength=num_classes)
    counts, others = found[:num_classes], np.flatnonzero(found[num_classes:]) + num_classes
    bad = others[others != ignore_index]
    if len(bad):
        raise ValueError(f'{name} holds the labels {bad.tolist()[:10]}, but there are {num_classes} classes, 0 to '
                         f'{num_classes - 1}, and ignore_index={ignore_index}; set reduce_zero_label or '
                         "metainfo['classes'] of the data set, convert the label maps, or give void pixels the value "
                         f'{ignore_index}.')
    if ignore_index < num_classes:
        counts[ignore_index] = 0
    return counts


def _missing(path) -> FileNotFoundError:
    return FileNotFoundError(f'The label map {path} does not exist; check data_root, data_prefix.seg_map_path and '
                             'seg_map_suffix of the training data set, or remove its image.')


def _cache_file(infos: list[dict], settings: list) -> Path | None:
    """Where the counts are kept; None for label maps in memory or on a server."""
    digest = hashlib.blake2b(json.dumps(settings).encode(), digest_size=16)
    for info in infos:
        path = info.get('seg_map_path')
        if path is None or 'gt_seg_map' in info or '://' in str(path):
            return None
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            raise _missing(path) from None
        digest.update(f'{os.path.abspath(path)}|{stat.st_size}|{stat.st_mtime_ns}|{info.get("label_map")}|'
                      f'{info.get("reduce_zero_label")}\n'.encode())
    root = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return Path(root) / 'allnc_mm' / f'pixel_counts-{digest.hexdigest()}.npy'


def _read_cache(path: Path | None, shape: tuple[int, int]) -> np.ndarray | None:
    if path is None:
        return None
    try:
        counts = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return counts if counts.shape == shape and counts.dtype == np.int64 else None


def _write_cache(path: Path | None, counts: np.ndarray) -> None:
    """Write whole or not at all: several ranks may do so at once, and a home folder may be read-only."""
    if path is None:
        return
    try:
        with whole_file(path) as part, open(part, 'wb') as file:
            np.save(file, counts)
    except OSError as error:
        print_log(f'The pixel counts could not be kept: {error}', logger='current', level=logging.WARNING)
