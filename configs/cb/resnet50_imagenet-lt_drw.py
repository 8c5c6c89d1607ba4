_base_ = './resnet50_imagenet-lt.py'
# Deferred: plain cross-entropy at first
default_hooks = dict(drw=dict(type='DRWHook', start=0.8))
