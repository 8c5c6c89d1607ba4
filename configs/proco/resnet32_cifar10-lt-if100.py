_base_ = '../bcl/resnet32_cifar10-lt-if100.py'
model = dict(
    head=dict(
        classifier=dict(
            _delete_=True, type='LinearClsHead', num_classes=10, in_channels=64,
            loss=dict(type='LogitAdjustedLoss', tau=1.0)),
        contrast=dict(_delete_=True, type='ProCoLoss', num_classes=10, dim=128, temperature=0.1),
        prototypes=None))
default_hooks = dict(epoch_start=dict(type='EpochStartHook'))
# The published recipe
train_dataloader = dict(batch_size=256)
optim_wrapper = dict(optimizer=dict(lr=0.3))
auto_scale_lr = dict(base_batch_size=256)
