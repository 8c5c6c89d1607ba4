_base_ = '../ce/resnet50_imagenet-lt.py'
model = dict(head=dict(loss=dict(use_soft=True)), train_cfg=dict(augments=dict(type='Mixup', alpha=0.2)))
data_preprocessor = dict(num_classes=1000)
