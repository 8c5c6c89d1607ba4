_base_ = ['../ce/resnet32_cifar100-lt-if100.py', '../_base_/datasets/cifar_views.py']
mlp = dict(type='NonLinearNeck', in_channels=64, hid_channels=512, out_channels=128, with_bias=True,
           with_last_bias=True, with_last_bn=False, with_avg_pool=False, norm_cfg=dict(type='BN1d'))
model = dict(
    head=dict(
        _delete_=True,
        type='ContrastiveClsHead',
        classifier=dict(
            type='SphericalHead', num_classes=100, in_channels=64, temperature=1 / 30,
            loss=dict(type='LogitAdjustedLoss', tau=1.0, loss_weight=2.0)),
        contrast=dict(type='SupConLoss', balanced=True, temperature=0.1, loss_weight=0.6),
        projector=mlp,
        prototypes=mlp,
        num_views=3))
# Steps of ProCo's released code, which trains BCL, too
param_scheduler = [
    dict(type='LinearLR', start_factor=0.2, by_epoch=True, end=5),
    dict(type='MultiStepLR', by_epoch=True, milestones=[160, 180], gamma=0.1),
]
# View 1 for the classifier, views 2 and 3 for the contrast
train_dataloader = dict(
    dataset=dict(pipeline=[
        dict(type='MultiView', num_views=[1, 2], transforms=[_base_.strong_view, _base_.simple_view]),
        dict(type='PackInputs'),
    ]))
