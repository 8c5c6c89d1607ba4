_base_ = '../ce/resnet50_imagenet-lt.py'
model = dict(
    head=dict(_delete_=True, type='ETFHead', num_classes=1000, in_channels=2048, norm_cfg=dict(type='BN1d'),
              loss=dict(type='DRLoss')),
    train_cfg=dict(augments=dict(type='Mixup', alpha=0.2)))
data_preprocessor = dict(num_classes=1000)
