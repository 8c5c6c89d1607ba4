_base_ = ['./upernet_r50_ade20k.py', '../_base_/seg_parts.py']
model = dict(type='AllNCSegmentor', center=_base_.parts.ceco)
