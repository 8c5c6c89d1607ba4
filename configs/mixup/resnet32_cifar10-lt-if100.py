_base_ = '../ce/resnet32_cifar10-lt-if100.py'
model = dict(head=dict(loss=dict(use_soft=True)), train_cfg=dict(augments=dict(type='Mixup', alpha=1.0)))
data_preprocessor = dict(num_classes=10)
