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
        # GLMC adds up its two views, AllNCHead averages them: hence each weight twice
        loss_uniform=dict(type='LogitAdjustedLoss', tau=0.0, loss_weight=2.0),
        loss_rebalanced=dict(
            type='ReweightedLoss', beta=None, power=1.0, normalize=False, loss_weight=2.0,
            loss=dict(type='LogitAdjustedLoss', tau=0.0)),
        share_classifier=False,
        predict_head='rebalanced',
        hycon=dict(type='HyConLoss', positives=['view'], loss_weight=20.0),
        projector=dict(type='LinearNeck', in_channels=2048, out_channels=256, gap_dim=0, norm_cfg=None, act_cfg=None),
        predictor=dict(type='LinearNeck', in_channels=256, out_channels=256, gap_dim=0, norm_cfg=None, act_cfg=None),
        proj_channels=256,
    ))
view = [
    dict(type='RandomResizedCrop', scale=224),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True),
    dict(type='GaussianBlur', magnitude_range=(0.1, 2.0), magnitude_std='inf', prob=0.5),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
]
train_dataloader = dict(
    batch_size=128,  # pairs: 128 x 2 views = 256 images a step
    dataset=dict(pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='MultiView', num_views=[2], transforms=[view]),
        dict(type='PackInputs'),
    ]),
    batch_sampler=dict(type='BilateralSampler', q=0.8))
default_hooks = dict(gbbn=dict(type='GBBNHook', gamma=2.0))
optim_wrapper = dict(optimizer=dict(weight_decay=2e-4))
auto_scale_lr = dict(base_batch_size=128)
