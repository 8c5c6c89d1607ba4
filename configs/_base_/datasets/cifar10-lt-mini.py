dataset_type, data_root, imb_factor = 'CIFAR10LT', 'data/cifar10', 100
# n_max 500 makes 1,236 training images at imbalance factor 100. The 450 images of each class that follow the training
# images in the shuffled order are the validation split (split='val'), on which every choice is made.
dataset = dict(type=dataset_type, data_root=data_root, imb_factor=imb_factor, n_max=500, val_per_class=450)
data_preprocessor = dict(
    type='MultiViewDataPreprocessor',
    mean=[125.307, 122.961, 113.8575],
    std=[51.5865, 50.847, 51.255],
    channels_last=True,
    to_rgb=False,  # the arrays are RGB already
)

train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    dataset=dict(**dataset, split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    dataset=dict(**dataset, split='test', pipeline=[dict(type='PackInputs')], test_mode=True),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
# CIFAR-10-LT has no class with under 20 images: the groups are by class order, head 4, medium 3, tail 3
val_evaluator = dict(type='LongTailMetric', groups=(4, 3, 3))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
