_base_ = './resnet20_cifar10-lt-mini-if100.py'
# The classifier's view alone is mixed: the contrast compares images of one class
model = dict(train_cfg=dict(augments=dict(type='Mixup', alpha=1.0)))
data_preprocessor = dict(num_classes=10, mixed_views=1)
