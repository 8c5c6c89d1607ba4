_base_ = './resnet32_cifar100-lt-if100.py'
dataset = dict(imb_factor=200)
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dataset)
test_dataloader = val_dataloader
