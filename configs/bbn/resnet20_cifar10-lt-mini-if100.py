_base_ = '../ce/resnet20_cifar10-lt-mini-if100.py'
model = dict(
    type='BBN',
    head=dict(_delete_=True, type='BBNHead', num_classes=10, in_channels=64))
train_dataloader = dict(batch_size=64, batch_sampler=dict(type='BilateralSampler', q=-1.0))
train_cfg = dict(max_epochs=80, val_interval=80)  # 2 images a step for each uniform one: the budget of 160 epochs
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=3, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=3, end=80, T_max=77, convert_to_iter_based=True),
]
default_hooks = dict(gbbn=dict(type='GBBNHook', gamma=2.0))
