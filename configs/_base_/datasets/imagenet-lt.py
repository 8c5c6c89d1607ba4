# ImageNet-LT: 115,846 images, 1000 classes, 1280 to 5 per class; choices on val (20 a class), report on test
# Lists: ImageNet_LT_{train,val,test}.txt of OLTR (arXiv:1904.05160) in data/imagenet
# Images: train/ and val/ of ILSVRC 2012 in data/imagenet
dataset_type, data_root = 'LongTailList', 'data/imagenet'
dataset = dict(type=dataset_type, data_root=data_root, num_classes=1000, train_ann_file='ImageNet_LT_train.txt')
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
    dataset=dict(**dataset, ann_file='ImageNet_LT_train.txt', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=8,
    dataset=dict(**dataset, ann_file='ImageNet_LT_val.txt', pipeline=test_pipeline, test_mode=True),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
val_evaluator = dict(type='LongTailMetric', groups='A')
test_dataloader = dict(
    batch_size=256,
    num_workers=8,
    dataset=dict(**dataset, ann_file='ImageNet_LT_test.txt', pipeline=test_pipeline, test_mode=True),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
test_evaluator = val_evaluator
