_base_ = '../ce/resnet20_digits-lt_mixture.py'
model = dict(head=dict(loss=dict(_delete_=True, type='LogitAdjustedLoss', tau=1.0)))
