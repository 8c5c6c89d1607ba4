_base_ = './resnet18_cifar100_d10.py'
# Class-mean features instead of a learned classifier
model = dict(head=dict(type='CMFHead', momentum=0.9))
