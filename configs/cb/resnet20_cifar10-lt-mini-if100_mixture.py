_base_ = '../ce/resnet20_cifar10-lt-mini-if100_mixture.py'
model = dict(
    head=dict(loss=dict(_delete_=True, type='ReweightedLoss', loss=dict(type='CrossEntropyLoss', use_soft=True))))
