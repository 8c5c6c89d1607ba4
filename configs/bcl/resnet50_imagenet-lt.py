_base_ = '../ce/resnet50_imagenet-lt.py'
mlp = dict(type='NonLinearNeck', in_channels=2048, hid_channels=2048, out_channels=1024, with_bias=True,
           with_last_bias=True, with_last_bn=False, with_avg_pool=False, norm_cfg=dict(type='BN1d'))
model = dict(
    head=dict(
        _delete_=True,
        type='ContrastiveClsHead',
        classifier=dict(
            type='SphericalHead', num_classes=1000, in_channels=2048, temperature=1 / 30,
            loss=dict(type='LogitAdjustedLoss', tau=1.0, loss_weight=1.0)),
        contrast=dict(type='SupConLoss', balanced=True, temperature=0.07, loss_weight=0.35),
        projector=mlp,
        prototypes=mlp,
        num_views=3))
# View 1 (RandAugment) for the classifier, views 2 and 3 for the contrast
strong_view = [
    dict(type='RandomResizedCrop', scale=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0),
    dict(type='RandAugment', policies='timm_increasing', num_policies=2, magnitude_level=10, magnitude_std=0.5,
         hparams=dict(pad_val=[124, 116, 104])),
]
simple_view = [
    dict(type='RandomResizedCrop', scale=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomApply', prob=0.8,
         transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)]),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True),
]
train_dataloader = dict(
    dataset=dict(pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='MultiView', num_views=[1, 2], transforms=[strong_view, simple_view]),
        dict(type='PackInputs'),
    ]))
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=True, end=90, T_max=90),
]
