from .class_counts_hook import ClassCountsHook
from .epoch_seed_hook import EpochSeedHook
from .finite_loss_hook import FiniteLossHook
from .gbbn_hook import GBBNHook

__all__ = ['ClassCountsHook', 'EpochSeedHook', 'FiniteLossHook', 'GBBNHook']
