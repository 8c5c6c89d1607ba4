_base_ = './resnet20_cifar10-lt-mini-if100.py'
model = dict(train_cfg=dict(augments=dict(alpha=4.0)))
