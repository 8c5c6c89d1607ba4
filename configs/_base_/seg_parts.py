# The parts of AllNC for any decode head, and the baselines: the configs of seg/ take theirs from here
parts = dict(
    classifier=dict(type='FixedClassifier', geometry='etf', length=16.0),
    balanced_softmax=dict(_delete_=True, type='LogitAdjustedSegLoss', tau=1.0),
    ceco=dict(type='CenterCollapseHead', channels=128, embed_dims=512, scale=5.0, loss_weight=0.8),
    # InfoNCE over the class means; this, the losses of the branches and gamma by one seed each on validation of CamVid
    hycon=dict(type='HyConLoss', positives=['mean'], negatives=True, class_balanced=True, loss_weight=0.5),
    p2p=dict(type='P2PLoss', means_weight=0.01, cross_weight=0.01, classifier_weight=1.0),
    gbbn=dict(
        type='AllNCSegmentor', bilateral=True, shared=True,
        decode_head=dict(loss_decode=dict(_delete_=True, type='LogitAdjustedSegLoss', tau=0.5)),
        loss_rebalanced=dict(type='LogitAdjustedSegLoss', tau=0.0)),  # SegClassWeightsHook gives it weights
    sampler=dict(type='RareClassSampler', q=0.0),
    gbbn_hook=dict(type='GBBNHook', gamma=0.3),
)
