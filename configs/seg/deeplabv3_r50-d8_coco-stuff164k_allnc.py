_base_ = './deeplabv3_r50-d8_coco-stuff164k_gbbn.py'
model = dict(geometry=dict(type='PixelGeometry', hycon=_base_.parts.hycon, p2p=_base_.parts.p2p))
