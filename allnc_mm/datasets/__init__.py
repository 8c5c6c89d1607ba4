from . import samplers
from .cifar_lt import CIFAR10LT, CIFAR100LT
from .digits_lt import DigitsLT
from .long_tail_list import LongTailList
from .reproducible import ReproducibleAugmentation
from .samplers import BilateralSampler, ClassBalancedSampler

__all__ = [
    'BilateralSampler', 'CIFAR10LT', 'CIFAR100LT', 'ClassBalancedSampler', 'DigitsLT', 'LongTailList',
    'ReproducibleAugmentation', 'samplers'
]
