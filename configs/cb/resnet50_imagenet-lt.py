_base_ = '../ce/resnet50_imagenet-lt.py'
model = dict(head=dict(loss=dict(_delete_=True, type='ReweightedLoss', loss=dict(type='CrossEntropyLoss'))))
