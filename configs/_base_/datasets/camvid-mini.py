# CamVid at a quarter of the pixels, 240 x 180, all frames in memory: a study that a desktop machine can carry
_base_ = './camvid.py'
crop_size = (160, 208)
train_pipeline = [
    dict(type='RandomResize', scale=(240, 180), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='PackSegInputs')]
memory_size = (240, 180)
train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False,
    dataset=dict(memory_size=memory_size, pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(memory_size=memory_size, pipeline=test_pipeline))
test_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(memory_size=memory_size, pipeline=test_pipeline))
