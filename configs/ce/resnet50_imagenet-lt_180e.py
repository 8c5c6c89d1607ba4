_base_ = './resnet50_imagenet-lt.py'
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=5, end=180, T_max=175, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=180)
