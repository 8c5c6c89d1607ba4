import copy
import math

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from mmpretrain.structures import DataSample

from allnc_mm.functional.dot_regression import dot_regression_loss
from allnc_mm.functional.geometry import simplex_etf
from allnc_mm.models import ETFHead
from allnc_mm.registry import MODELS


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def samples(labels, soft=None):
    out = [DataSample().set_gt_label(label) for label in labels]
    for sample, score in zip(out, soft if soft is not None else []):
        sample.set_gt_score(score)
    return out


def orthogonality_gap(head):
    weight = head.rotation.weight
    return (weight @ weight.T - torch.eye(len(weight))).abs().max().item()


def test_logits_are_scaled_cosines():
    head = ETFHead(4, 6, length=5.0)
    x = features(3, 6)
    logits = head((features(3, 9), x))  # the last of the tuple counts
    code = simplex_etf(4, 6)
    expected = [[5 * sum(a * b for a, b in zip(h, w)) / math.sqrt(sum(a * a for a in h)) for w in code.tolist()]
                for h in x.double().tolist()]
    torch.testing.assert_close(logits.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(head((1e25 * x, )), logits)
    assert torch.equal(head((torch.zeros(1, 6), )), torch.zeros(1, 4))
    assert torch.equal(head.classifier_weight, head.code)
    assert not list(head.parameters())  # nothing is trained


def test_logits_are_float32_under_autocast():
    head, x = ETFHead(4, 6, rotation=True), features(3, 6).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        logits = head((x, ))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, head((x.float(), )))


def test_predict():
    head = ETFHead(4, 6)
    predictions = head.predict((3 * head.code, ))
    assert [sample.pred_label.item() for sample in predictions] == [0, 1, 2, 3]
    assert predictions[0].pred_score.max() > 0.999


def test_seed_chooses_the_orientation():
    assert torch.equal(ETFHead(4, 6, seed=7).code, simplex_etf(4, 6, seed=7, dtype=torch.float32))
    assert not torch.allclose(ETFHead(4, 6).code, ETFHead(4, 6, seed=7).code)


@pytest.mark.parametrize('loss', [None, dict(type='DRLoss', form='released', loss_weight=2.0),
                                  dict(type='DRLoss', reduction='sum')])
def test_loss_on_features_and_codes(loss):
    head, x, labels = ETFHead(4, 6, loss=loss), features(3, 6), torch.tensor([2, 0, 2])
    settings = {k: v for k, v in (loss or {}).items() if k not in ('type', 'loss_weight')}
    weight = (loss or {}).get('loss_weight', 1)
    losses = head.loss((x, ), samples(labels))
    assert list(losses) == ['loss']
    torch.testing.assert_close(losses['loss'], weight * dot_regression_loss(x, labels, head.code, **settings))
    soft = features(3, 4, seed=1).softmax(dim=1)
    losses = head.loss((x, ), samples(labels, soft))
    torch.testing.assert_close(losses['loss'], weight * dot_regression_loss(x, soft, head.code, **settings))


def test_loss_on_logits():
    head, x, labels = ETFHead(4, 6, loss=dict(type='CrossEntropyLoss')), features(3, 6), torch.tensor([2, 0, 2])
    expected = torch.nn.functional.cross_entropy(head((x, )), labels)
    torch.testing.assert_close(head.loss((x, ), samples(labels))['loss'], expected)
    head = ETFHead(4, 6, loss=dict(type='CrossEntropyLoss', use_soft=True))
    soft = features(3, 4, seed=1).softmax(dim=1)
    expected = torch.nn.functional.cross_entropy(head((x, )), soft)
    torch.testing.assert_close(head.loss((x, ), samples(labels, soft))['loss'], expected)


@pytest.mark.parametrize('loss', ['DRLoss', 'CrossEntropyLoss'])
def test_accuracy(loss):
    head = ETFHead(4, 6, loss=dict(type=loss), cal_acc=True, topk=(1, 3))
    losses = head.loss((head.code, ), samples([0, 1, 2, 0]))
    assert set(losses) == {'loss', 'accuracy_top-1', 'accuracy_top-3'}
    assert [value.item() for value in losses['accuracy_top-1']] == [75]


def test_accuracy_of_soft_labels_is_refused():
    head = ETFHead(4, 6, cal_acc=True)
    with pytest.raises(ValueError, match='cal_acc=True.*set cal_acc=False'):
        head.loss((features(3, 6), ), samples([0, 1, 2], features(3, 4).softmax(dim=1)))


def test_normalisation_layer_precedes_the_unit_length():
    head, x = ETFHead(4, 6, norm_cfg=dict(type='BN1d')), 3 + 2 * features(8, 6)
    normed = (x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + head.norm.eps).sqrt()
    torch.testing.assert_close(head.pre_logits((x, )), normed)
    unit = normed / normed.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head((x, )), 16 * unit @ head.code.T, rtol=1e-4, atol=1e-5)
    labels = torch.randint(4, (8, ), generator=torch.Generator().manual_seed(0))
    loss = head.loss((x, ), samples(labels))['loss']
    torch.testing.assert_close(loss, dot_regression_loss(normed, labels, head.code))


def test_learnable_length():
    head = ETFHead(4, 6, length=8.0, learnable_length=True, loss=dict(type='CrossEntropyLoss'))
    fixed = ETFHead(4, 6, length=8.0)
    x = features(3, 6)
    torch.testing.assert_close(head((x, )), fixed((x, )))
    assert [name for name, _ in head.named_parameters()] == ['log_length']
    head.loss((3 * head.code, ), samples([0, 1, 2, 3]))['loss'].backward()
    assert head.log_length.grad < 0  # right features: a longer code lowers the cross-entropy


def test_rotation_starts_at_the_identity_and_stays_orthogonal():
    head = ETFHead(4, 6, rotation=True)
    torch.testing.assert_close(head.classifier_weight, head.code)
    target = simplex_etf(4, 6, seed=5, dtype=torch.float32)
    before = head.loss((target, ), samples(range(4)))['loss'].item()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5, momentum=0.9)
    for _ in range(50):
        optimizer.zero_grad()
        loss = head.loss((target, ), samples(range(4)))['loss']
        loss.backward()
        optimizer.step()
    assert loss.item() < before / 100  # the rotation has found the other orientation
    assert orthogonality_gap(head) < 1e-5
    assert (head.classifier_weight - head.code).abs().max() > 0.1
    weight = head.classifier_weight
    torch.testing.assert_close(weight @ weight.T, head.code @ head.code.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(head((target, )), 16 * target @ weight.T)


@pytest.mark.parametrize('settings', [
    dict(),
    dict(norm_cfg=dict(type='BN1d')),
    dict(rotation=True),
    dict(rotation=True, learnable_length=True, loss=dict(type='CrossEntropyLoss')),
])
def test_state_dict_round_trip(settings):
    source = ETFHead(4, 6, seed=1, **settings)
    for parameter in source.parameters():
        parameter.data.add_(0.1)
    target = ETFHead(4, 6, seed=2, **settings)
    x = (features(5, 6), )
    source.eval(), target.eval()
    assert not torch.allclose(source(x), target(x))
    target.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(source(x), target(x))
    assert torch.equal(copy.deepcopy(target)(x), target(x))


@pytest.mark.parametrize('num_classes, in_channels', [(5, 6), (4, 8)])
def test_checkpoint_of_another_shape(num_classes, in_channels, tmp_path):
    match = (rf"'code' of shape .* = \({num_classes}, {in_channels}\), but this ETFHead has \(4, 6\).*"
             r'set num_classes and in_channels.*Pretrained')
    state = ETFHead(num_classes, in_channels).state_dict()
    with pytest.raises(ValueError, match=match):
        ETFHead(4, 6).load_state_dict(state)
    torch.save(dict(state_dict=state), tmp_path / 'epoch_1.pth')
    with pytest.raises(ValueError, match=match):  # mmengine's own loader is not strict
        load_checkpoint(ETFHead(4, 6), str(tmp_path / 'epoch_1.pth'), strict=False)


def test_bad_settings():
    with pytest.raises(ValueError, match=r'ETFHead\(num_classes=10, in_channels=8\).*needs dim >= 9.*softmax code'):
        ETFHead(10, 8)
    with pytest.raises(ValueError, match=r'ETFHead\(num_classes=1, in_channels=8\).*at least 2'):
        ETFHead(1, 8)
    with pytest.raises(ValueError, match='`length` of ETFHead to be positive, but got 0'):
        ETFHead(4, 6, length=0)
    with pytest.raises(ValueError, match='learnable_length=True.*DRLoss works on features.*CrossEntropyLoss'):
        ETFHead(4, 6, learnable_length=True)
    with pytest.raises(ValueError, match=r'in_channels=6\), but got \(2, 6, 4, 4\).*GlobalAveragePooling'):
        ETFHead(4, 6)((torch.zeros(2, 6, 4, 4), ))
    with pytest.raises(ValueError, match=r'in_channels=6\), but got \(2, 5\)'):
        ETFHead(4, 6)((torch.zeros(2, 5), ))


@pytest.mark.parametrize('loss', [dict(type='DRLoss'), dict(type='CrossEntropyLoss', use_soft=True)])
@pytest.mark.parametrize('mixup', [False, True])
def test_step_in_a_plain_image_classifier(loss, mixup):
    if not mixup and loss['type'] == 'CrossEntropyLoss':
        loss = dict(type='CrossEntropyLoss')
    model = MODELS.build(dict(
        type='ImageClassifier',
        backbone=dict(type='ResNetCIFAR6n2', depth=20, base_channels=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='ETFHead', num_classes=4, in_channels=16, loss=loss, norm_cfg=dict(type='BN1d'), rotation=True),
        data_preprocessor=dict(num_classes=4, mean=[127.5] * 3, std=[127.5] * 3),
        train_cfg=dict(augments=[dict(type='Mixup', alpha=1.0)]) if mixup else None))
    model.init_weights()
    code = model.head.code.clone()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    data = dict(inputs=[torch.randint(256, (3, 16, 16), dtype=torch.uint8) for _ in range(8)],
                data_samples=samples([0, 1, 2, 3] * 2))
    log = model.train_step(data, wrapper)
    assert log['loss'].isfinite()
    still = [name for name, parameter in model.named_parameters() if torch.equal(before[name], parameter)]
    assert still == []
    assert torch.equal(model.head.code, code) and orthogonality_gap(model.head) < 1e-5
    model.eval()
    predictions = model.test_step(data)
    assert all(sample.pred_score.sum().item() == pytest.approx(1, abs=1e-5) for sample in predictions)
