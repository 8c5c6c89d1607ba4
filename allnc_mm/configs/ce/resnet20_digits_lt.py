# Cross-entropy on long-tailed handwritten digits: configs/ce/resnet20_digits-lt.py as a lazy config.
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.hooks import CheckpointHook, DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import CosineAnnealingLR, LinearLR
from mmengine.visualization import LocalVisBackend
from mmpretrain.datasets import PackInputs
from mmpretrain.engine import VisualizationHook
from mmpretrain.models import CrossEntropyLoss, GlobalAveragePooling, ImageClassifier, LinearClsHead
from mmpretrain.visualization import UniversalVisualizer
from torch.optim import SGD

from allnc_mm.datasets import DigitsLT
from allnc_mm.engine.hooks import ClassCountsHook, EpochSeedHook, FiniteLossHook
from allnc_mm.evaluation import LongTailMetric
from allnc_mm.models import MultiViewDataPreprocessor, ResNetCIFAR6n2

default_scope = 'mmpretrain'
custom_imports = dict(imports=['allnc_mm'], allow_failed_imports=False)

model = dict(
    type=ImageClassifier,
    backbone=dict(type=ResNetCIFAR6n2, depth=20, base_channels=16),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=10, in_channels=64, loss=dict(type=CrossEntropyLoss)))

dataset = dict(type=DigitsLT, imb_factor=50)
data_preprocessor = dict(type=MultiViewDataPreprocessor, mean=[78.0] * 3, std=[85.0] * 3, to_rgb=False)
train_pipeline = [dict(type='RandomCrop', crop_size=16, padding=2), dict(type=PackInputs)]
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    dataset=dict(**dataset, split='train', pipeline=train_pipeline),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=default_collate))
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    dataset=dict(**dataset, split='test', pipeline=[dict(type=PackInputs)], test_mode=True),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=default_collate))
test_dataloader = val_dataloader
val_evaluator = dict(type=LongTailMetric, groups=(3, 4, 3))
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(type=SGD, lr=0.05, momentum=0.9, weight_decay=2e-3))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.1, by_epoch=True, end=3, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, by_epoch=True, begin=3, end=60, T_max=57, convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=60, val_interval=10)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=32)

default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=9),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, interval=10, max_keep_ckpts=2),
    sampler_seed=dict(type=DistSamplerSeedHook),
    visualization=dict(type=VisualizationHook, enable=False),
    class_counts=dict(type=ClassCountsHook),
    epoch_seed=dict(type=EpochSeedHook),
    finite_loss=dict(type=FiniteLossHook))
env_cfg = dict(
    cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl'))
visualizer = dict(type=UniversalVisualizer, vis_backends=[dict(type=LocalVisBackend)])
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
