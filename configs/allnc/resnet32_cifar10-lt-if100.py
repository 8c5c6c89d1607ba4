_base_ = '../ce/resnet32_cifar10-lt-if100.py'

# As in the mini protocol, on whose validation split it was chosen: one view of a mixture with a partner that moves from
# natural (q = 1) to class-balanced (q = 0) with eta
model = dict(
    type='AllNC',
    mixture=dict(type='MixtureViews', alpha=4.0, methods=['mixup']),
    head=dict(
        _delete_=True,
        type='AllNCHead',
        num_classes=10,
        in_channels=64,
        loss_uniform=dict(type='LogitAdjustedLoss', tau=1.1),
        loss_rebalanced=dict(type='LogitAdjustedLoss', tau=1.5),
        hycon=dict(type='HyConLoss', positives=['mean'], loss_weight=0.5),
        p2p=dict(type='P2PLoss', means_weight=0.0, classifier_weight=0.05, cross_weight=0.0),
    ))
train_dataloader = dict(batch_sampler=dict(type='BilateralSampler', q=0.0, progressive=True))
default_hooks = dict(gbbn=dict(type='GBBNHook', gamma=2.0))
custom_hooks = [dict(type='CleanBNHook')]
