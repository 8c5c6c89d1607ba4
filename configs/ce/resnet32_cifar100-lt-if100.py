_base_ = [
    '../_base_/models/resnet32_cifar.py', '../_base_/datasets/cifar100-lt.py', '../_base_/schedules/cifar_200e.py',
    '../_base_/default_runtime.py'
]
model = dict(head=dict(num_classes=100))
default_hooks = dict(checkpoint=dict(interval=10))
