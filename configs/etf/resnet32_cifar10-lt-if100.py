_base_ = '../ce/resnet32_cifar10-lt-if100.py'
# The published recipe has input mixup, which DR takes as soft labels
model = dict(
    head=dict(_delete_=True, type='ETFHead', num_classes=10, in_channels=64, norm_cfg=dict(type='BN1d'),
              loss=dict(type='DRLoss')),
    train_cfg=dict(augments=dict(type='Mixup', alpha=1.0)))
data_preprocessor = dict(num_classes=10)
