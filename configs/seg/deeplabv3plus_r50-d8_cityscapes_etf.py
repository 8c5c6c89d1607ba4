_base_ = ['./deeplabv3plus_r50-d8_cityscapes.py', '../_base_/seg_parts.py']
model = dict(type='AllNCSegmentor', classifier=_base_.parts.classifier)
