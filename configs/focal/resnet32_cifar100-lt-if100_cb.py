_base_ = './resnet32_cifar100-lt-if100.py'
model = dict(head=dict(loss=dict(
    _delete_=True, type='ReweightedLoss', normalize=False,
    loss=dict(type='FocalLoss', gamma=2.0, alpha=0.5, loss_weight=2.0))))
