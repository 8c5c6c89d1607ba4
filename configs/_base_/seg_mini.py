# 1,600 iterations of 16 crops (70 passes over CamVid), from scratch
_base_ = './seg_80k.py'
optim_wrapper = dict(optimizer=dict(lr=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', eta_min=1e-4, power=0.9, by_epoch=False, begin=100, end=1600),
]
train_cfg = dict(max_iters=1600, val_interval=400)
default_hooks = dict(checkpoint=dict(interval=400))
