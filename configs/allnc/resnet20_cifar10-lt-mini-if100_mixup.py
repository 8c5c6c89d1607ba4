_base_ = './resnet20_cifar10-lt-mini-if100.py'

# MixUp alone, with shares near one half: the partners repeat the rare images, and few copies stay all but unmixed
model = dict(mixture=dict(alpha=4.0, methods=['mixup']))
