_base_ = '../ce/resnet50_imagenet-lt.py'

model = dict(
    type='AllNC',
    num_views=2,
    mixture=dict(type='MixtureViews'),
    head=dict(
        _delete_=True,
        type='AllNCHead',
        num_classes=1000,
        in_channels=2048,
        loss_uniform=dict(type='LogitAdjustedLoss', tau=1.0),
        loss_rebalanced=dict(type='LogitAdjustedLoss', tau=1.2),
        hycon=dict(type='HyConLoss', loss_weight=0.05),
        p2p=dict(type='P2PLoss', means_weight=0.0, classifier_weight=0.05, cross_weight=0.0),
        projector=dict(type='NonLinearNeck', in_channels=2048, hid_channels=512, out_channels=512, with_avg_pool=False,
                       with_last_bn=False, norm_cfg=dict(type='BN1d')),
        predictor=dict(type='NonLinearNeck', in_channels=512, hid_channels=256, out_channels=512, with_avg_pool=False,
                       with_last_bn=False, norm_cfg=dict(type='BN1d')),
        proj_channels=512,
    ))

# Two views from one decode; one is mixed by MixUp, the other by CutMix
train_dataloader = dict(
    batch_size=128,  # pairs: 128 x 2 views = 256 images a step
    dataset=dict(pipeline=[
        dict(type='LoadImageFromFile'),
        dict(
            type='MultiView',
            num_views=[2],
            transforms=[[
                dict(type='RandomResizedCrop', scale=224),
                dict(type='RandomFlip', prob=0.5, direction='horizontal'),
                dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0),
            ]]),
        dict(type='PackInputs'),
    ]),
    batch_sampler=dict(type='BilateralSampler', q=0.0, progressive=True))
default_hooks = dict(gbbn=dict(type='GBBNHook', gamma=2.0))
custom_hooks = [dict(type='CleanBNHook')]
auto_scale_lr = dict(base_batch_size=128)
