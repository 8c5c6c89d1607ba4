_base_ = '../ce/resnet50_imagenet-lt.py'
model = dict(
    type='BBN',
    head=dict(_delete_=True, type='BBNHead', num_classes=1000, in_channels=2048))
train_dataloader = dict(batch_size=128, batch_sampler=dict(type='BilateralSampler', q=-1.0))  # 256 images a step
default_hooks = dict(gbbn=dict(type='GBBNHook', gamma=2.0))
auto_scale_lr = dict(base_batch_size=128)
