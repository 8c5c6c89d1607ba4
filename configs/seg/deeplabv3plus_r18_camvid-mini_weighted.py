_base_ = './deeplabv3plus_r18_camvid-mini.py'
custom_hooks = [dict(type='SegClassWeightsHook', scheme='inverse', power=0.5)]
