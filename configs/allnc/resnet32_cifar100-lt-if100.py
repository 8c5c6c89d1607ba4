_base_ = '../ce/resnet32_cifar100-lt-if100.py'

# 100 classes in 64 dimensions: there is no simplex ETF, so P2P punishes too large cosines only ('hinge')
model = dict(
    type='AllNC',
    num_views=2,
    mixture=dict(type='MixtureViews'),
    head=dict(
        _delete_=True,
        type='AllNCHead',
        num_classes=100,
        in_channels=64,
        loss_uniform=dict(type='LogitAdjustedLoss', tau=1.0),
        loss_rebalanced=dict(type='LogitAdjustedLoss', tau=1.2),
        hycon=dict(type='HyConLoss'),
        p2p=dict(type='P2PLoss', target='hinge', means_weight=0.02, classifier_weight=0.1, cross_weight=0.02),
        projector=dict(type='NonLinearNeck', in_channels=64, hid_channels=128, out_channels=128, with_avg_pool=False,
                       with_last_bn=False, norm_cfg=dict(type='BN1d')),
        predictor=dict(type='NonLinearNeck', in_channels=128, hid_channels=64, out_channels=128, with_avg_pool=False,
                       with_last_bn=False, norm_cfg=dict(type='BN1d')),
        proj_channels=128,
    ))

# Two views from one decode, with crops and flips of their own: one is mixed by MixUp, the other by CutMix
train_dataloader = dict(
    dataset=dict(pipeline=[
        dict(
            type='MultiView',
            num_views=[2],
            transforms=[[
                dict(type='RandomCrop', crop_size=32, padding=4),
                dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            ]]),
        dict(type='PackInputs'),
    ]),
    batch_sampler=dict(type='BilateralSampler', q=0.0, progressive=True))
default_hooks = dict(gbbn=dict(type='GBBNHook', gamma=2.0))
