# The parts of AllNC for any decode head, and the baselines: the configs of seg/ take theirs from here
parts = dict(
    classifier=dict(type='FixedClassifier', geometry='etf', length=16.0),
    balanced_softmax=dict(_delete_=True, type='LogitAdjustedSegLoss', tau=1.0),
    ceco=dict(type='CenterCollapseHead', channels=128, embed_dims=512, scale=5.0, loss_weight=0.8),
    hycon=dict(type='HyConLoss', positives=['mean'], class_balanced=True, loss_weight=0.05),
    p2p=dict(type='P2PLoss', means_weight=0.01, cross_weight=0.01, classifier_weight=1.0),
    # Class weights n^-0.75 for the gradient of rare classes, tau < 0 so that the decision moves by 0.75 - 0.4 alone
    gbbn=dict(
        type='AllNCSegmentor', bilateral=True, shared=True,
        loss_rebalanced=dict(type='LogitAdjustedSegLoss', tau=-0.4)),
    class_weights=dict(type='SegClassWeightsHook', power=0.75),
    sampler=dict(type='RareClassSampler', q=0.5),
    gbbn_hook=dict(type='GBBNHook', gamma=0.1),
)
