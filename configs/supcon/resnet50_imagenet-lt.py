_base_ = '../bcl/resnet50_imagenet-lt.py'
model = dict(
    head=dict(
        classifier=dict(
            _delete_=True, type='LinearClsHead', num_classes=1000, in_channels=2048,
            loss=dict(type='CrossEntropyLoss')),
        contrast=dict(balanced=False, loss_weight=1.0),
        prototypes=None))
