_base_ = '../ce/resnet32_cifar100-lt-if100.py'
model = dict(head=dict(loss=dict(_delete_=True, type='ReweightedLoss', loss=dict(type='CrossEntropyLoss'))))
