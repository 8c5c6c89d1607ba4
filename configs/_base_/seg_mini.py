# 800 iterations of 16 crops (35 passes over CamVid), from scratch
_base_ = './seg_80k.py'
optim_wrapper = dict(type='BFloat16OptimWrapper', optimizer=dict(lr=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', eta_min=1e-4, power=0.9, by_epoch=False, begin=100, end=800),
]
train_cfg = dict(max_iters=800, val_interval=200)
default_hooks = dict(checkpoint=dict(interval=200))
