"""Labels of a data set, and class counts as settings: a list, or the JSON file of ``analysis_tools/class_stats.py``."""
import json
from collections.abc import Sequence
from numbers import Integral

import numpy as np

__all__ = ['read_class_counts', 'read_labels']


def read_labels(dataset, owner: str) -> np.ndarray:
    """The label of every sample of a data set, as often and in the order in which wrappers of mmengine show it.

    Args:
        dataset: With ``get_gt_labels()`` (mmpretrain), or ``get_data_info(i)['gt_label']`` (mmengine's wrappers).
        owner (str): Who needs them, for messages.

    Returns:
        np.ndarray: Integers (N,).

    Raises:
        TypeError: if there is not one integer label a sample.
    """
    name = type(dataset).__name__
    try:
        if hasattr(dataset, 'get_gt_labels'):
            labels = np.asarray(dataset.get_gt_labels())
        else:
            labels = np.asarray([dataset.get_data_info(i)['gt_label'] for i in range(len(dataset))])
    except (AttributeError, KeyError, ValueError) as error:  # a ValueError: several labels, as many as a sample has
        raise TypeError(f"{owner} needs one integer label per sample, but {name} gives none by get_gt_labels() or "
                        "get_data_info(i)['gt_label']; use a classification data set with hard labels.") from error
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f'{owner} needs one integer label per sample, but {name} gives labels of type {labels.dtype} '
                        f'and shape {labels.shape}; use a classification data set with hard labels.')
    return labels


def read_class_counts(counts: Sequence[int] | str | None, owner: str) -> list[int] | None:
    """Counts of a setting ``num_per_class``.

    Args:
        counts (Sequence[int] | str, optional): The counts, or the path of a JSON file: a list, or a dictionary with the
            list under ``num_per_class``, such as ``class_stats.py`` writes. None stays None.
        owner (str): Whose setting it is, for messages.

    Returns:
        list[int] | None: One count a class.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if these are no counts.

    Example:
        >>> read_class_counts([500, 20], 'LongTailMetric')
        [500, 20]
    """
    if counts is None:
        return None
    where = f'`num_per_class` of {owner}'
    if isinstance(counts, str):
        where += f' (from {counts})'
        try:
            with open(counts) as file:
                counts = json.load(file)
        except FileNotFoundError:
            raise FileNotFoundError(f'{where}: there is no such file; write it with '
                                    'tools/analysis_tools/class_stats.py CONFIG --out DIR.') from None
        except ValueError as error:
            raise ValueError(f'{where} is no JSON file: {error}.') from error
        if isinstance(counts, dict):
            if 'num_per_class' not in counts:
                raise ValueError(f"{where}: the file has no 'num_per_class'; give the one that "
                                 'tools/analysis_tools/class_stats.py writes.')
            counts = counts['num_per_class']
    counts = counts.tolist() if hasattr(counts, 'tolist') else counts
    if not isinstance(counts, (list, tuple)) or not counts or not all(
            isinstance(n, Integral) and not isinstance(n, bool) and n >= 0 for n in counts):
        raise ValueError(f'{where} must list one count a class, integers >= 0, but is {str(counts)[:200]}.')
    return [int(n) for n in counts]
