"""allnc_mm: All-around Neural Collapse for imbalanced data, as a plug-in for OpenMMLab.

Importing it checks the stack, applies the fixes of :mod:`allnc_mm.compat` and registers the classification side;
:mod:`allnc_mm.segmentation` is imported only by configs that name it.
"""
from . import compat
from .version import __version__

compat.apply()

try:
    from . import datasets, engine, evaluation, models
except KeyError as error:
    if 'already registered' not in str(error):
        raise
    raise ImportError(f'A component of allnc_mm clashes with one of a library that is loaded already: {error}. '
                      'Remove or rename one of the two.') from error
from .registry import check_names  # noqa: E402

check_names()

__all__ = ['__version__', 'datasets', 'engine', 'evaluation', 'models']
