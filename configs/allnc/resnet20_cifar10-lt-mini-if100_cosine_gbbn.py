_base_ = './resnet20_cifar10-lt-mini-if100_cosine.py'

# GBBN alone: what HyCon and P2P are worth is the difference
model = dict(head=dict(hycon=None, p2p=None))
