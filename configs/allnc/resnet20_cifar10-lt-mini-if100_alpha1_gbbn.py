_base_ = './resnet20_cifar10-lt-mini-if100_alpha1.py'
model = dict(head=dict(hycon=None, p2p=None))
