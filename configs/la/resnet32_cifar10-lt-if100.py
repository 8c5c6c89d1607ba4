_base_ = '../ce/resnet32_cifar10-lt-if100.py'
model = dict(head=dict(loss=dict(_delete_=True, type='LogitAdjustedLoss', tau=1.0)))
