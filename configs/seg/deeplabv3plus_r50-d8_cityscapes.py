_base_ = [
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py', 'mmseg::_base_/datasets/cityscapes.py', '../_base_/seg_80k.py'
]
model = dict(data_preprocessor=dict(size=_base_.crop_size))
val_evaluator = [dict(type='LongTailIoUMetric'), dict(type='PixelCollapseMetric')]
test_evaluator = val_evaluator
auto_scale_lr = dict(base_batch_size=8)
