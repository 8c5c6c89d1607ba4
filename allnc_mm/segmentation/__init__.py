"""The segmentation side: components for mmseg, imported only by configs that name it.

.. code-block:: python

    custom_imports = dict(imports=['allnc_mm', 'allnc_mm.segmentation'], allow_failed_imports=False)
"""
from ..registry import check_names
from . import compat, datasets, evaluation, heads, hooks, losses, segmentors, utils

compat.apply()
check_names()

__all__ = ['datasets', 'evaluation', 'heads', 'hooks', 'losses', 'segmentors', 'utils']
