_base_ = '../ce/resnet50_imagenet-lt.py'
# (1 - p)^2 on a sigmoid for each class; alpha = 1/2 with twice the weight: positives and negatives count alike
model = dict(head=dict(loss=dict(_delete_=True, type='FocalLoss', gamma=2.0, alpha=0.5, loss_weight=2.0)))
