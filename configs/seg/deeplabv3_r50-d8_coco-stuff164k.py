_base_ = [
    'mmseg::_base_/models/deeplabv3_r50-d8.py', 'mmseg::_base_/datasets/coco-stuff164k.py', '../_base_/seg_80k.py'
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=171),
    auxiliary_head=dict(num_classes=171))
val_evaluator = [dict(type='LongTailIoUMetric'), dict(type='PixelCollapseMetric')]
test_evaluator = val_evaluator
