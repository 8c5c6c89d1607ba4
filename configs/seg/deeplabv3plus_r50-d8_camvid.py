_base_ = ['mmseg::_base_/models/deeplabv3plus_r50-d8.py', '../_base_/datasets/camvid.py', '../_base_/seg_80k.py']
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=11, loss_decode=dict(avg_non_ignore=True)),
    auxiliary_head=dict(num_classes=11, loss_decode=dict(avg_non_ignore=True)))
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=20000, by_epoch=False)]
train_cfg = dict(max_iters=20000, val_interval=2000)
default_hooks = dict(checkpoint=dict(interval=2000))
auto_scale_lr = dict(base_batch_size=8)
