from .class_counts_hook import ClassCountsHook
from .clean_bn_hook import CleanBNHook
from .device_augmentation_hook import DeviceAugmentationHook
from .drw_hook import DRWHook
from .epoch_seed_hook import EpochSeedHook
from .epoch_start_hook import EpochStartHook
from .finite_loss_hook import FiniteLossHook
from .gbbn_hook import GBBNHook
from .max_norm_hook import MaxNormHook
from .neural_collapse_hook import NeuralCollapseHook

__all__ = [
    'CleanBNHook', 'ClassCountsHook', 'DRWHook', 'DeviceAugmentationHook', 'EpochSeedHook', 'EpochStartHook',
    'FiniteLossHook', 'GBBNHook', 'MaxNormHook', 'NeuralCollapseHook'
]
