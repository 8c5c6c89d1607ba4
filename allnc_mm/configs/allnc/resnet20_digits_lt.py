# AllNC on long-tailed handwritten digits: configs/allnc/resnet20_digits-lt.py as a lazy config.
from mmengine.config import read_base
from mmpretrain.models import NonLinearNeck

from allnc_mm.datasets import BilateralSampler
from allnc_mm.engine.hooks import GBBNHook
from allnc_mm.models import AllNC, AllNCHead, HyConLoss, LogitAdjustedLoss, MixtureViews, P2PLoss

with read_base():
    from ..ce.resnet20_digits_lt import *

model.update(dict(type=AllNC, mixture=dict(type=MixtureViews)))
model['head'] = dict(
    type=AllNCHead,
    num_classes=10,
    in_channels=64,
    loss_uniform=dict(type=LogitAdjustedLoss, tau=1.0),
    loss_rebalanced=dict(type=LogitAdjustedLoss, tau=1.2),
    hycon=dict(type=HyConLoss, positives=['mean']),
    p2p=dict(type=P2PLoss, means_weight=0.001, classifier_weight=1.0, cross_weight=0.001),
    projector=dict(type=NonLinearNeck, in_channels=64, hid_channels=128, out_channels=128, with_avg_pool=False,
                   with_last_bn=False, norm_cfg=dict(type='BN1d')),
    proj_channels=128)
train_dataloader.update(dict(batch_sampler=dict(type=BilateralSampler, q=0.0, progressive=True)))
default_hooks.update(dict(gbbn=dict(type=GBBNHook, gamma=2.0)))
