# Registers allnc_mm's components; the only line that a config of one's own needs besides the method.
custom_imports = dict(imports=['allnc_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='VisualizationHook', enable=False),
    class_counts=dict(type='ClassCountsHook'),  # hands the training images per class to losses and heads
    epoch_seed=dict(type='EpochSeedHook'),  # a resumed run equals an uncut one, if the data set knows the epoch
    finite_loss=dict(type='FiniteLossHook'),  # NaN stops all ranks and names its component
)

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
