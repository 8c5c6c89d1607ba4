_base_ = '../ce/resnet32_cifar100-lt-if100.py'

# As in the mini protocol of CIFAR-10 (of its validation split, with the mixture of alpha 1): a partner that moves from
# natural (q = 1) to class-balanced (q = 0) with eta. 100 classes in 64 dimensions have no ETF: P2P takes a softmax code
model = dict(
    type='AllNC',
    mixture=dict(type='MixtureViews'),
    head=dict(
        _delete_=True,
        type='AllNCHead',
        num_classes=100,
        in_channels=64,
        loss_uniform=dict(type='LogitAdjustedLoss', tau=1.1),
        loss_rebalanced=dict(type='LogitAdjustedLoss', tau=1.5),
        hycon=dict(type='HyConLoss', positives=['mean'], loss_weight=0.5),
        p2p=dict(type='P2PLoss', target='softmax_code', means_weight=0.0, classifier_weight=0.05, cross_weight=0.0),
    ))
train_dataloader = dict(batch_sampler=dict(type='BilateralSampler', q=0.0, progressive=True))
default_hooks = dict(gbbn=dict(type='GBBNHook', gamma=2.0))
custom_hooks = [dict(type='CleanBNHook')]
