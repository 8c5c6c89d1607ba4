_base_ = ['./deeplabv3_r50-d8_coco-stuff164k.py', '../_base_/seg_parts.py']
model = dict(decode_head=dict(loss_decode=_base_.parts.balanced_softmax))
