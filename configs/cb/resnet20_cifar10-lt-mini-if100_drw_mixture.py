_base_ = './resnet20_cifar10-lt-mini-if100_mixture.py'
default_hooks = dict(drw=dict(type='DRWHook', start=0.8))
