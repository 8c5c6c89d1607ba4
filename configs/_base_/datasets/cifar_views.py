# The views of contrastive methods on CIFAR, as in ProCo's released code (arXiv:2403.06726): a strong one for the
# classifier (crop, flip, AutoAugment's CIFAR-10 policy, cutout), and the simple ones of SimCLR for the contrast.
cifar_autoaugment = [
    [dict(type='Invert', prob=0.1), dict(type='Contrast', magnitude=0.6, prob=0.2)],
    [dict(type='Rotate', angle=6.667, prob=0.7),
     dict(type='Translate', magnitude=0.453, direction='horizontal', prob=0.3)],
    [dict(type='Sharpness', magnitude=0.1, prob=0.8), dict(type='Sharpness', magnitude=0.3, prob=0.9)],
    [dict(type='Shear', magnitude=0.267, direction='vertical', prob=0.5),
     dict(type='Translate', magnitude=0.453, direction='vertical', prob=0.7)],
    [dict(type='AutoContrast', prob=0.5), dict(type='Equalize', prob=0.9)],
    [dict(type='Shear', magnitude=0.233, direction='vertical', prob=0.2), dict(type='Posterize', bits=5, prob=0.3)],
    [dict(type='ColorTransform', magnitude=0.3, prob=0.4), dict(type='Brightness', magnitude=0.7, prob=0.6)],
    [dict(type='Sharpness', magnitude=0.9, prob=0.3), dict(type='Brightness', magnitude=0.9, prob=0.7)],
    [dict(type='Equalize', prob=0.6), dict(type='Equalize', prob=0.5)],
    [dict(type='Contrast', magnitude=0.7, prob=0.6), dict(type='Sharpness', magnitude=0.5, prob=0.6)],
    [dict(type='ColorTransform', magnitude=0.7, prob=0.7),
     dict(type='Translate', magnitude=0.403, direction='horizontal', prob=0.5)],
    [dict(type='Equalize', prob=0.3), dict(type='AutoContrast', prob=0.4)],
    [dict(type='Translate', magnitude=0.151, direction='vertical', prob=0.4),
     dict(type='Sharpness', magnitude=0.6, prob=0.2)],
    [dict(type='Brightness', magnitude=0.6, prob=0.9), dict(type='ColorTransform', magnitude=0.8, prob=0.2)],
    [dict(type='Solarize', thr=199.111, prob=0.5)],
    [dict(type='Equalize', prob=0.2), dict(type='AutoContrast', prob=0.6)],
    [dict(type='Equalize', prob=0.2), dict(type='Equalize', prob=0.6)],
    [dict(type='ColorTransform', magnitude=0.9, prob=0.9), dict(type='Equalize', prob=0.6)],
    [dict(type='AutoContrast', prob=0.8), dict(type='Solarize', thr=28.444, prob=0.2)],
    [dict(type='Brightness', magnitude=0.3, prob=0.1), dict(type='ColorTransform', magnitude=0.0, prob=0.7)],
    [dict(type='Solarize', thr=113.778, prob=0.4), dict(type='AutoContrast', prob=0.9)],
    [dict(type='Translate', magnitude=0.453, direction='vertical', prob=0.9),
     dict(type='Translate', magnitude=0.453, direction='vertical', prob=0.7)],
    [dict(type='AutoContrast', prob=0.9), dict(type='Solarize', thr=170.667, prob=0.8)],
    [dict(type='Equalize', prob=0.8), dict(type='Invert', prob=0.1)],
    [dict(type='Translate', magnitude=0.453, direction='vertical', prob=0.7), dict(type='AutoContrast', prob=0.9)],
]
strong_view = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='AutoAugment', policies=cifar_autoaugment, hparams=dict(pad_val=128)),
    dict(type='Cutout', shape=16, pad_val=0, prob=1.0),
]
plain_view = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
]
simple_view = [
    dict(type='RandomResizedCrop', scale=32),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='RandomApply',
        prob=0.8,
        transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)]),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True, color_format='rgb'),
]
