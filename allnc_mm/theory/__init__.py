"""Simulators of unconstrained features: what a loss does to the last layer, in seconds and to many digits.

``python -m allnc_mm.theory MODEL`` runs one from the command line. Every simulator returns :class:`Solution`:
classifier and class means, of which the measures of :mod:`allnc_mm.functional` make table row, JSON and pictures.
"""
from .allnc import allnc_layer_peeled, allnc_sweep
from .fixed_etf import fixed_etf
from .layer_peeled import layer_peeled, layer_peeled_sweep, minority_collapse_threshold
from .relu import relu_ufm, relu_ufm_descent
from .solution import Solution, save_json, table
from .spherical import spherical
from .ulpm import gradient_flow, growth_margin
from .weight_decay import collapse_count, collapse_ratio, seli, weight_decay_ufm

__all__ = [
    'Solution', 'allnc_layer_peeled', 'allnc_sweep', 'collapse_count', 'collapse_ratio', 'fixed_etf', 'gradient_flow',
    'growth_margin', 'layer_peeled', 'layer_peeled_sweep', 'minority_collapse_threshold', 'relu_ufm',
    'relu_ufm_descent', 'save_json', 'seli', 'spherical', 'table', 'weight_decay_ufm'
]
