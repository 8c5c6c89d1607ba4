_base_ = './resnet18_cifar100_d10.py'
model = dict(neck=dict(out_channels=30), head=dict(in_channels=30))
