_base_ = './deeplabv3plus_r18_camvid-mini_ceco.py'
# as in the released code of CeCo: the centre branch stays as it was initialised
model = dict(center=dict(frozen=True))
