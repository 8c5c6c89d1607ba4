_base_ = './resnet20_cifar10-lt-mini-if100_clean.py'
# For many classes and few passes: a cosine classifier, natural samples for both branches, re-balancing by the loss
model = dict(
    head=dict(
        temperature=1 / 30,
        loss_uniform=dict(tau=0.7),
        loss_rebalanced=dict(tau=1.1),
        hycon=dict(loss_weight=0.05),
        p2p=dict(classifier_weight=1.0),
    ))
train_dataloader = dict(batch_sampler=dict(q=1.0, progressive=False))
