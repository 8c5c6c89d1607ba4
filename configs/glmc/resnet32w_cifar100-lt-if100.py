_base_ = './resnet32_cifar100-lt-if100.py'
# The published recipe (W): four times as wide, small learning rate, large weight decay
model = dict(
    backbone=dict(base_channels=64),
    head=dict(
        in_channels=256, projector=dict(in_channels=256),
        init_cfg=dict(type='Kaiming', layer='Linear', mode='fan_in')))
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=0.01, weight_decay=5e-3))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True, end=200, T_max=200)]
