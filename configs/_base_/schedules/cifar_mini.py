# Mini protocol, for two CPU cores: 160 passes over the training images; every view that is passed counts
optim_wrapper = dict(
    type='BFloat16OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=5, end=160, T_max=155, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=160, val_interval=160)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=128)
