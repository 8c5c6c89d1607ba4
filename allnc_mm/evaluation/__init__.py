from .long_tail_metric import LongTailMetric
from .neural_collapse_metric import NeuralCollapseMetric

__all__ = ['LongTailMetric', 'NeuralCollapseMetric']
