_base_ = ['./deeplabv3_r50-d8_coco-stuff164k.py', '../_base_/seg_parts.py']
model = dict(type='AllNCSegmentor', classifier=_base_.parts.classifier)
