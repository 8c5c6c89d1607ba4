_base_ = '../ce/resnet32_cifar100-lt-if100.py'
# Stage 2: a new classifier on the frozen trunk of the stage-1 checkpoint, class-balanced sampling
stage1 = 'work_dirs/ce/resnet32_cifar100-lt-if100/epoch_200.pth'
model = dict(
    backbone=dict(frozen_stages=3, init_cfg=dict(type='Pretrained', checkpoint=stage1, prefix='backbone.')))
train_dataloader = dict(sampler=dict(_delete_=True, type='ClassBalancedSampler', q=0.0))
optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=True, end=10, T_max=10, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=10, val_interval=10)
default_hooks = dict(checkpoint=dict(interval=10))
