_base_ = '../bcl/resnet20_cifar10-lt-mini-if100.py'
model = dict(
    head=dict(
        classifier=dict(
            _delete_=True, type='LinearClsHead', num_classes=10, in_channels=64,
            loss=dict(type='LogitAdjustedLoss', tau=1.0)),
        contrast=dict(_delete_=True, type='ProCoLoss', num_classes=10, dim=128, temperature=0.1),
        prototypes=None))
default_hooks = dict(epoch_start=dict(type='EpochStartHook'))
