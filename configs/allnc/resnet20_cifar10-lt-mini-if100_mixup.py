_base_ = './resnet20_cifar10-lt-mini-if100.py'

# MixUp alone, with shares near one half: chosen on the validation split, see README.md
model = dict(mixture=dict(alpha=4.0, methods=['mixup']))
