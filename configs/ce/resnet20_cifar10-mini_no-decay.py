# Neural collapse without weight decay: 500 images of each class of CIFAR-10 without augmentation, cross-entropy alone,
# float32, and the curves of the geometry; for the optimizer see resnet20_digits_no-decay.py.
_base_ = './resnet20_cifar10-lt-mini-if100.py'
imb_factor = 1
dataset = dict(imb_factor=imb_factor)
train_dataloader = dict(dataset=dict(**dataset, pipeline=[dict(type='PackInputs')]))
val_dataloader = dict(dataset=dataset)
test_dataloader = val_dataloader
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.0))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=3, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=200, val_interval=50)
default_hooks = dict(checkpoint=dict(interval=20), logger=dict(interval=40))
custom_hooks = [dict(type='NeuralCollapseHook', interval=5, gnc=False)]
