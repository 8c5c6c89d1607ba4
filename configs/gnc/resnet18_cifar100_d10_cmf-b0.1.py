_base_ = './resnet18_cifar100_d10_cmf.py'
model = dict(head=dict(momentum=0.1))
