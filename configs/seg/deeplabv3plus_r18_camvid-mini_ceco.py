_base_ = ['./deeplabv3plus_r18_camvid-mini.py', '../_base_/seg_parts.py']
model = dict(type='AllNCSegmentor', center=_base_.parts.ceco)
