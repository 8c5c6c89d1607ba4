_base_ = './resnet18_cifar100_d10.py'
# The optimal arrangement, fixed from the start; length = 1 / temperature
model = dict(head=dict(
    _delete_=True, type='SoftmaxCodeHead', num_classes=100, in_channels=10, length=10.0,
    loss=dict(type='CrossEntropyLoss')))
