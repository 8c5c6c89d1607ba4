_base_ = './resnet20_cifar10-lt-mini-if100_cb.py'
# Without class weights; mixed as its labels are, which mmpretrain's loss of a soft label is not
model = dict(head=dict(loss=dict(beta=0.0)), train_cfg=dict(augments=dict(type='Mixup', alpha=1.0)))
data_preprocessor = dict(num_classes=10)
