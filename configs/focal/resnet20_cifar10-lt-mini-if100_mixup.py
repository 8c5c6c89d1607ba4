_base_ = './resnet20_cifar10-lt-mini-if100.py'
model = dict(train_cfg=dict(augments=dict(type='Mixup', alpha=1.0)))
data_preprocessor = dict(num_classes=10)
