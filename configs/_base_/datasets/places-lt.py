# Places-LT: 62,500 images, 365 classes, 4980 to 5 per class; choices on val (20 a class), report on test
# Lists: Places_LT_{train,val,test}.txt of OLTR (arXiv:1904.05160) in data/places
# Images: data_256/ and val_256/ of Places365 in data/places
dataset_type, data_root = 'LongTailList', 'data/places'
dataset = dict(type=dataset_type, data_root=data_root, num_classes=365, train_ann_file='Places_LT_train.txt')
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
    dataset=dict(**dataset, ann_file='Places_LT_train.txt', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=8,
    dataset=dict(**dataset, ann_file='Places_LT_val.txt', pipeline=test_pipeline, test_mode=True),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
val_evaluator = dict(type='LongTailMetric', groups='A')
test_dataloader = dict(
    batch_size=256,
    num_workers=8,
    dataset=dict(**dataset, ann_file='Places_LT_test.txt', pipeline=test_pipeline, test_mode=True),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
test_evaluator = val_evaluator
