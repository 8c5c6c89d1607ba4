_base_ = ['mmseg::_base_/models/upernet_r50.py', 'mmseg::_base_/datasets/ade20k.py', '../_base_/seg_160k.py']
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150))
val_evaluator = [dict(type='LongTailIoUMetric'), dict(type='PixelCollapseMetric')]
test_evaluator = val_evaluator
