_base_ = './resnet20_cifar10-lt-mini-if100.py'
model = dict(
    head=dict(
        _delete_=True,
        type='SphericalHead',
        num_classes=10,
        in_channels=64,
        temperature=1 / 30,
        loss=dict(type='LogitAdjustedLoss', tau=1.0)))
