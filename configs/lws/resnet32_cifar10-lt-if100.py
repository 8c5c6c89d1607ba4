_base_ = '../crt/resnet32_cifar10-lt-if100.py'
# Stage 2: one factor for each class; trunk and classifier are those of stage 1
stage1 = 'work_dirs/ce/resnet32_cifar10-lt-if100/epoch_200.pth'
model = dict(head=dict(type='LWSHead', init_cfg=dict(type='Pretrained', checkpoint=stage1, prefix='head.')))
