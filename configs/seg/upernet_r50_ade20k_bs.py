_base_ = ['./upernet_r50_ade20k.py', '../_base_/seg_parts.py']
model = dict(decode_head=dict(loss_decode=_base_.parts.balanced_softmax))
