_base_ = '../crt/resnet50_imagenet-lt.py'
# Stage 2: one factor for each class; trunk and classifier are those of stage 1
stage1 = 'work_dirs/ce/resnet50_imagenet-lt/epoch_90.pth'
model = dict(head=dict(type='LWSHead', init_cfg=dict(type='Pretrained', checkpoint=stage1, prefix='head.')))
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=True, end=5, T_max=5, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=5, val_interval=5)
default_hooks = dict(checkpoint=dict(interval=5))
