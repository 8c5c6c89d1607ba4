# Neural collapse without weight decay: balanced digits without augmentation, cross-entropy alone, and the curves of the
# geometry. Without decay the flow needs time exp(margin): AdamW with decay 0 is Adam, whose steps do not shrink with
# the loss. benchmarks/no_weight_decay.py trains and plots it, beside a run with weight decay.
_base_ = './resnet20_digits-lt.py'
dataset = dict(imb_factor=1)
train_dataloader = dict(batch_size=100, dataset=dict(**dataset, pipeline=[dict(type='PackInputs')]))
val_dataloader = dict(dataset=dataset)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=2e-3, weight_decay=0.0))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=3, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=200, val_interval=50)
default_hooks = dict(checkpoint=dict(interval=20), logger=dict(interval=10))
custom_hooks = [dict(type='NeuralCollapseHook', interval=5, gnc=False)]
