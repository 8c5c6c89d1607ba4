# iNaturalist 2018: 437,513 images, 8142 classes, 1000 to 2 per class; evaluated on the official validation set
# Lists: train2018.json and val2018.json of the competition in data/inat2018; images: train_val2018/
dataset_type, data_root = 'LongTailList', 'data/inat2018'
dataset = dict(type=dataset_type, data_root=data_root, num_classes=8142, train_ann_file='train2018.json')
data_preprocessor = dict(
    type='MultiViewDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=256,
    num_workers=8,
    dataset=dict(**dataset, ann_file='train2018.json', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=8,
    dataset=dict(**dataset, ann_file='val2018.json', pipeline=test_pipeline, test_mode=True),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
val_evaluator = dict(type='LongTailMetric', groups='A')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
