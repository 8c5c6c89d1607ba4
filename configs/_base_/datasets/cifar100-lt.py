dataset_type, data_root, imb_factor = 'CIFAR100LT', 'data/cifar100', 100
dataset = dict(type=dataset_type, data_root=data_root, imb_factor=imb_factor)
data_preprocessor = dict(
    type='MultiViewDataPreprocessor',
    mean=[129.304, 124.070, 112.434],
    std=[68.170, 65.392, 70.418],
    to_rgb=False,  # the arrays are RGB already
)

train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    dataset=dict(**dataset, split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=2,
    dataset=dict(**dataset, split='test', pipeline=[dict(type='PackInputs')], test_mode=True),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
val_evaluator = dict(type='LongTailMetric', groups='A')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
