_base_ = '../mixup/resnet20_cifar10-lt-mini-if100.py'
model = dict(head=dict(loss=dict(_delete_=True, type='LogitAdjustedLoss', tau=1.0)))
