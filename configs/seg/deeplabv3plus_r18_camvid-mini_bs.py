_base_ = ['./deeplabv3plus_r18_camvid-mini.py', '../_base_/seg_parts.py']
model = dict(decode_head=dict(loss_decode=_base_.parts.balanced_softmax))
