_base_ = '../ce/resnet20_cifar10-lt-mini-if100.py'
model = dict(
    head=dict(_delete_=True, type='ETFHead', num_classes=10, in_channels=64, norm_cfg=dict(type='BN1d'),
              loss=dict(type='DRLoss')))
