_base_ = '../ce/resnet32_cifar100-lt-if100.py'
model = dict(
    head=dict(
        _delete_=True,
        type='SphericalHead',
        num_classes=100,
        in_channels=64,
        temperature=1 / 30,
        loss=dict(type='ReweightedLoss', loss=dict(type='LDAMLoss', max_margin=0.5, scale=30.0))))
default_hooks = dict(drw=dict(type='DRWHook', start=0.8))
