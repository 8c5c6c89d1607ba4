# 1000 iterations of 8 crops (22 passes over CamVid), from scratch
_base_ = './seg_80k.py'
optim_wrapper = dict(
    type='BFloat16OptimWrapper', optimizer=dict(_delete_=True, type='AdamW', lr=0.002, weight_decay=0.02))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, by_epoch=False, begin=50, end=1000),
]
auto_scale_lr = dict(base_batch_size=8)
train_cfg = dict(max_iters=1000, val_interval=500)
default_hooks = dict(checkpoint=dict(interval=200))
