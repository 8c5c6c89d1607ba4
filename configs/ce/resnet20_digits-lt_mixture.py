_base_ = './resnet20_digits-lt.py'
# MixUp or CutMix within the batch, drawn for each batch: mmpretrain's own
model = dict(train_cfg=dict(augments=[dict(type='Mixup', alpha=1.0), dict(type='CutMix', alpha=1.0)]))
data_preprocessor = dict(num_classes=10)
model['head'] = dict(loss=dict(use_soft=True))
