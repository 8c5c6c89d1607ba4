# mmseg's runtime and 80k schedule, with what allnc_mm adds to every segmentation config
_base_ = ['mmseg::_base_/default_runtime.py', 'mmseg::_base_/schedules/schedule_80k.py']
custom_imports = dict(imports=['allnc_mm', 'allnc_mm.segmentation'], allow_failed_imports=False)

default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=2),
    class_counts=dict(type='PixelCountsHook'),  # counts the labelled pixels (once), for losses and samplers
    attach_metrics=dict(type='AttachMetricsHook'),  # lets PixelCollapseMetric see the features
    epoch_seed=dict(type='EpochSeedHook'),  # a resumed run equals an uncut one, if the data set knows the epoch
    finite_loss=dict(type='FiniteLossHook'),  # NaN stops all ranks and names its component
)
randomness = dict(seed=0)
auto_scale_lr = dict(base_batch_size=16)
