_base_ = './resnet20_cifar10-lt-mini-if100.py'
# Without mixture: the re-balanced half of each batch is passed beside the natural one, and both train both branches
model = dict(mixture=None, shared=True)
train_dataloader = dict(batch_size=64)
train_cfg = dict(max_epochs=80, val_interval=80)  # 2 images a step for each natural one: the budget of 160 epochs
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=3, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=3, end=80, T_max=77, convert_to_iter_based=True),
]
