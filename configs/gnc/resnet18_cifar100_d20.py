_base_ = './resnet18_cifar100_d10.py'
model = dict(neck=dict(out_channels=20), head=dict(in_channels=20))
