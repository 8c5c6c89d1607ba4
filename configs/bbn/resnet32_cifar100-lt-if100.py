_base_ = '../ce/resnet32_cifar100-lt-if100.py'
model = dict(
    type='BBN',
    head=dict(_delete_=True, type='BBNHead', num_classes=100, in_channels=64))
train_dataloader = dict(batch_sampler=dict(type='BilateralSampler', q=-1.0))
default_hooks = dict(gbbn=dict(type='GBBNHook', gamma=2.0))
# BBN's own schedule: x 0.01 after 120 and again after 160
param_scheduler = [
    dict(type='LinearLR', start_factor=0.2, by_epoch=True, end=5),
    dict(type='MultiStepLR', by_epoch=True, milestones=[120, 160], gamma=0.01),
]
