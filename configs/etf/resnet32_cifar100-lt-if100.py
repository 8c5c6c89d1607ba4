_base_ = '../ce/resnet32_cifar100-lt-if100.py'
# 100 classes need d >= 99: the published recipe doubles the width (32 channels, d = 128)
model = dict(
    head=dict(_delete_=True, type='ETFHead', num_classes=100, in_channels=128, norm_cfg=dict(type='BN1d'),
              loss=dict(type='DRLoss')),
    backbone=dict(base_channels=32),
    train_cfg=dict(augments=dict(type='Mixup', alpha=1.0)))
data_preprocessor = dict(num_classes=100)
