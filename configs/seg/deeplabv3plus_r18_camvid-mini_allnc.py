_base_ = './deeplabv3plus_r18_camvid-mini_gbbn.py'
model = dict(geometry=dict(type='PixelGeometry', hycon=_base_.parts.hycon, p2p=_base_.parts.p2p))
