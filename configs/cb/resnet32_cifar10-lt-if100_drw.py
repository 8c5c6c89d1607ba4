_base_ = './resnet32_cifar10-lt-if100.py'
# Deferred: plain cross-entropy at first
default_hooks = dict(drw=dict(type='DRWHook', start=0.8))
