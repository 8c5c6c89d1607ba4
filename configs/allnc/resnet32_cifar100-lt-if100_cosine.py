_base_ = '../ce/resnet32_cifar100-lt-if100.py'

# For many classes and few passes: the best row of the mini protocol of CIFAR-100, whose images chose it. A cosine
# classifier, natural samples, re-balancing by the loss; an ImageClassifier, as every sample serves both branches
model = dict(
    head=dict(
        _delete_=True,
        type='AllNCHead',
        num_classes=100,
        in_channels=64,
        temperature=1 / 30,
        loss_uniform=dict(type='LogitAdjustedLoss', tau=0.7),
        loss_rebalanced=dict(type='LogitAdjustedLoss', tau=1.1),
        hycon=dict(type='HyConLoss', positives=['mean'], loss_weight=0.05),
        p2p=dict(type='P2PLoss', target='softmax_code', means_weight=0.0, classifier_weight=1.0, cross_weight=0.0),
    ))
default_hooks = dict(gbbn=dict(type='GBBNHook', gamma=2.0))
