_base_ = ['./deeplabv3plus_r50-d8_camvid.py', '../_base_/seg_parts.py']
model = _base_.parts.gbbn
train_pipeline = [dict(t, type='RareClassCrop') if t['type'] == 'RandomCrop' else t for t in _base_.train_pipeline]
train_dataloader = dict(
    batch_size=_base_.train_dataloader.batch_size // 2,  # natural crops, and as many rare-class crops
    batch_sampler=_base_.parts.sampler,
    dataset=dict(pipeline=train_pipeline))
default_hooks = dict(gbbn=_base_.parts.gbbn_hook)
custom_hooks = [_base_.parts.class_weights]
auto_scale_lr = dict(base_batch_size=_base_.auto_scale_lr.base_batch_size // 2)
