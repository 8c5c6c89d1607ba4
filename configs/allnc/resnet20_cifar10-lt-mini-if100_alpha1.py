_base_ = './resnet20_cifar10-lt-mini-if100.py'
# The milder mixture: MixUp or CutMix, with shares from a uniform distribution
model = dict(mixture=dict(_delete_=True, type='MixtureViews'))
