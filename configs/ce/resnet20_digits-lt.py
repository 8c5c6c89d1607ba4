_base_ = [
    '../_base_/models/resnet20_cifar.py', '../_base_/datasets/digits-lt.py', '../_base_/schedules/digits.py',
    '../_base_/default_runtime.py'
]
default_hooks = dict(checkpoint=dict(interval=10), logger=dict(interval=9))
