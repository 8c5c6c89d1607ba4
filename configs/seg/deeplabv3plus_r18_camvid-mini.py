_base_ = ['mmseg::_base_/models/deeplabv3plus_r50-d8.py', '../_base_/datasets/camvid-mini.py', '../_base_/seg_mini.py']
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    pretrained=None,
    backbone=dict(depth=18, stem_channels=32, base_channels=32, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    decode_head=dict(
        in_channels=256, channels=64, dilations=(1, 2, 4, 6), c1_in_channels=32, c1_channels=24, num_classes=11,
        loss_decode=dict(avg_non_ignore=True)),
    auxiliary_head=None)  # its loss at the size of the labels would be a large part of so small a step
