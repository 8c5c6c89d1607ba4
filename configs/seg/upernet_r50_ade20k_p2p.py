_base_ = ['./upernet_r50_ade20k.py', '../_base_/seg_parts.py']
model = dict(type='AllNCSegmentor', geometry=dict(type='PixelGeometry', p2p=_base_.parts.p2p))
