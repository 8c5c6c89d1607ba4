_base_ = '../ce/resnet20_digits-lt.py'

# Chosen on images of the training pool that no split uses: see README.md
model = dict(
    type='AllNC',
    mixture=dict(type='MixtureViews'),
    head=dict(
        _delete_=True,
        type='AllNCHead',
        num_classes=10,
        in_channels=64,
        loss_uniform=dict(type='LogitAdjustedLoss', tau=1.0),
        loss_rebalanced=dict(type='LogitAdjustedLoss', tau=1.2),
        hycon=dict(type='HyConLoss', positives=['mean']),
        p2p=dict(type='P2PLoss', means_weight=0.001, classifier_weight=1.0, cross_weight=0.001),
        projector=dict(type='NonLinearNeck', in_channels=64, hid_channels=128, out_channels=128, with_avg_pool=False,
                       with_last_bn=False, norm_cfg=dict(type='BN1d')),
        proj_channels=128,
    ))
# The partner of each mixture moves from natural (q = 1) to class-balanced (q = 0) with eta
train_dataloader = dict(batch_sampler=dict(type='BilateralSampler', q=0.0, progressive=True))
default_hooks = dict(gbbn=dict(type='GBBNHook', gamma=2.0))
