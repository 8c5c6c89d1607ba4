_base_ = [
    '../_base_/models/resnet32_cifar.py', '../_base_/datasets/cifar10-lt.py', '../_base_/schedules/cifar_200e.py',
    '../_base_/default_runtime.py'
]
default_hooks = dict(checkpoint=dict(interval=10))
