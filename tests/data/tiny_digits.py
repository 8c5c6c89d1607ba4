# A complete training of a few seconds: a thin network on 8 x 8 digits. The tests of tools, launch and resume use it.
custom_imports = dict(imports=['allnc_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

pipeline = [dict(type='RandomCrop', crop_size=8, padding=1), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=32, num_workers=0,
    dataset=dict(type='DigitsLT', split='train', n_max=40, imb_factor=10, size=8, pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(
    batch_size=100, num_workers=0,
    dataset=dict(type='DigitsLT', split='test', size=8, pipeline=[dict(type='PackInputs')]),
    sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='Accuracy', topk=(1, ))

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=10, mean=[64.0] * 3, std=[80.0] * 3),
    backbone=dict(type='ResNetCIFAR6n2', depth=20, base_channels=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=16, loss=dict(type='CrossEntropyLoss')))

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='CosineAnnealingLR', T_max=3, by_epoch=True, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=3, val_interval=3)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1), logger=dict(type='LoggerHook', interval=2))
custom_hooks = [dict(type='EpochSeedHook'), dict(type='FiniteLossHook')]
randomness = dict(seed=0, deterministic=True)
