_base_ = '../ce/resnet50_imagenet-lt.py'
model = dict(head=dict(loss=dict(_delete_=True, type='LogitAdjustedLoss', tau=1.0)))
