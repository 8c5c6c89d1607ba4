_base_ = './resnet18_cifar100_d10.py'
# No collapse to a softmax code at this temperature
model = dict(head=dict(temperature=1.0))
