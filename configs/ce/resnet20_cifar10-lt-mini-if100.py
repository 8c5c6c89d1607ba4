_base_ = [
    '../_base_/models/resnet20_cifar.py', '../_base_/datasets/cifar10-lt-mini.py', '../_base_/schedules/cifar_mini.py',
    '../_base_/default_runtime.py'
]
default_hooks = dict(checkpoint=dict(interval=20, max_keep_ckpts=1), logger=dict(interval=20))
