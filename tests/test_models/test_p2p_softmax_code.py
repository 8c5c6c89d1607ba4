"""P2P with a softmax code as target, alone and in AllNCHead, for more classes than a simplex has."""
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample

from allnc_mm.functional import p2p_loss
from allnc_mm.models import P2PLoss
from allnc_mm.registry import MODELS

K, DIM = 8, 3


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def head(num_classes=K, in_channels=DIM, **p2p):
    p2p = dict(dict(type='P2PLoss', target='softmax_code'), **p2p)
    return MODELS.build(dict(type='AllNCHead', num_classes=num_classes, in_channels=in_channels, momentum=0.0, p2p=p2p,
                             loss_rebalanced=dict(type='LogitAdjustedLoss', tau=0.0)))


def scaled_to_zero_mean(code):
    """The code's directions with lengths that make them sum to zero: what P2P sees after it has centred."""
    lengths = torch.ones(len(code), dtype=torch.float64)
    for _ in range(20000):
        lengths = (lengths - 0.2 * code @ (lengths @ code)).clamp_min(1e-3)
    return lengths[:, None] * code


def test_zero_at_the_code_in_any_orientation_and_not_elsewhere():
    loss = P2PLoss(target='softmax_code', num_classes=K, dim=DIM)
    code = loss.code.double()
    rows = scaled_to_zero_mean(code)
    assert rows.sum(0).norm() < 1e-6
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(DIM, DIM, dtype=torch.float64, generator=generator))[0]
    assert loss(rows @ rotation, 3 * rows @ rotation + 1).item() < 1e-9  # an offset is centred away
    assert loss(rows, rows @ rotation).item() > 1e-2  # not turned against each other
    assert loss(rows.flip(0), rows.flip(0)).item() > 1e-3  # each class has its own place
    x = torch.randn(K, DIM, generator=torch.Generator().manual_seed(1))
    assert loss(x, x).item() == pytest.approx(p2p_loss(x, x, target=loss.code).item(), rel=1e-6)


def test_descent_on_it_finds_the_code():
    torch.manual_seed(0)
    loss = P2PLoss(target='softmax_code', num_classes=K, dim=DIM)
    weight = torch.randn(K, DIM, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.03)
    start = loss(weight, weight).item()
    for _ in range(400):
        optimizer.zero_grad()
        value = loss(weight, weight)
        value.backward()
        optimizer.step()
    assert value.item() < 1e-4 * start


def test_inside_the_head():
    torch.manual_seed(0)
    module = head()
    assert module.p2p.code.shape == (K, DIM)
    samples = [DataSample().set_gt_label(k) for k in range(K)]
    losses = module.loss((torch.randn(K, DIM), ), samples)
    losses['loss_p2p'].backward()
    assert losses['loss_p2p'].isfinite() and module.fc.weight.grad.abs().sum() > 0
    assert not module.p2p.code.requires_grad

    state = module.state_dict()
    assert 'p2p.code' in state
    other = head()
    other.p2p.code.zero_()
    other.load_state_dict(state, strict=True)
    assert torch.equal(other.p2p.code, module.p2p.code)
    with pytest.raises(ValueError, match=r"softmax code 'p2p.code' .* \(8, 3\), but this P2PLoss has \(9, 3\)"):
        head(num_classes=9).load_state_dict(state)


def test_it_is_the_simplex_where_there_is_one():
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    loss = P2PLoss(target='softmax_code', num_classes=4, dim=5)
    torch.testing.assert_close(loss(x, x), P2PLoss(target='etf')(x, x))


def test_bad_settings():
    with pytest.raises(ValueError, match=r"`target` to be one of \('etf', 'hinge', 'softmax_code'\), but got 'code'"):
        P2PLoss(target='code')
    with pytest.raises(ValueError, match=r"target='softmax_code'\) needs `num_classes` and `dim`, but got None and 3"):
        P2PLoss(target='softmax_code', dim=3)
    with pytest.raises(ValueError, match="K=8 classes needs d >= 7.*set p2p.target='hinge' or 'softmax_code'"):
        head(target='etf')
