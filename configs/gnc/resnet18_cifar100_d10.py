_base_ = ['../_base_/datasets/cifar100-lt.py', '../_base_/default_runtime.py']

# Balanced CIFAR-100; ResNet-18 with CIFAR stem, a linear map with bias to d dimensions, a spherical classifier
d = 10
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, num_stages=4, out_indices=(3, ), style='pytorch'),
    neck=dict(type='LinearNeck', in_channels=512, out_channels=d, gap_dim=2, norm_cfg=None),
    head=dict(type='SphericalHead', num_classes=100, in_channels=d, temperature=0.1),
)

dataset = dict(imb_factor=1)
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='Rotate', magnitude_range=(0, 15), magnitude_std='inf', pad_val=0, prob=1.0),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=500, dataset=dict(**dataset, pipeline=train_pipeline))
val_dataloader = dict(dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='Accuracy')
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=200, T_max=200)]
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=10)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=500)
default_hooks = dict(checkpoint=dict(interval=10))
