_base_ = './upernet_r50_ade20k_gbbn.py'
model = dict(geometry=dict(type='PixelGeometry', hycon=_base_.parts.hycon, p2p=_base_.parts.p2p))
