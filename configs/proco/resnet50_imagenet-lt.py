_base_ = '../bcl/resnet50_imagenet-lt.py'
model = dict(
    head=dict(
        contrast=dict(_delete_=True, type='ProCoLoss', num_classes=1000, dim=1024, temperature=0.07),
        prototypes=None))
default_hooks = dict(epoch_start=dict(type='EpochStartHook'))
