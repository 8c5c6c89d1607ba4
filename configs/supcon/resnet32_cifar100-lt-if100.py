_base_ = '../bcl/resnet32_cifar100-lt-if100.py'
model = dict(
    head=dict(
        classifier=dict(
            _delete_=True, type='LinearClsHead', num_classes=100, in_channels=64, loss=dict(type='CrossEntropyLoss')),
        contrast=dict(balanced=False, loss_weight=1.0),
        prototypes=None))
