# scikit-learn's handwritten digits, made long-tailed (imbalance factor 50): real images without a download
dataset = dict(type='DigitsLT', imb_factor=50)
data_preprocessor = dict(type='MultiViewDataPreprocessor', mean=[78.0] * 3, std=[85.0] * 3, to_rgb=False)

train_pipeline = [
    dict(type='RandomCrop', crop_size=16, padding=2),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    dataset=dict(**dataset, split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    dataset=dict(**dataset, split='test', pipeline=[dict(type='PackInputs')], test_mode=True),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
val_evaluator = dict(type='LongTailMetric', groups=(3, 4, 3))  # by class order: no class has over 100 images
test_dataloader = val_dataloader
test_evaluator = val_evaluator
