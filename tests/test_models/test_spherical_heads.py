"""Cosine classifiers for any number of classes: learned, class means, and a fixed softmax code."""
import copy
import math
import warnings

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from mmpretrain.structures import DataSample
from torch import nn

from allnc_mm.models import CMFHead, SoftmaxCodeHead, SphericalHead
from allnc_mm.registry import MODELS

K, DIM = 7, 4  # K > d + 1: no simplex
HEADS = ['SphericalHead', 'CMFHead', 'SoftmaxCodeHead']
CE, DR = dict(type='CrossEntropyLoss'), dict(type='DRLoss')


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def samples(labels):
    return [DataSample().set_gt_label(int(label)) for label in labels]


def build(kind, num_classes=K, in_channels=DIM, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return MODELS.build(dict(type=kind, num_classes=num_classes, in_channels=in_channels, **kwargs))


def unit(rows):
    return [[a / math.sqrt(sum(b * b for b in row)) for a in row] for row in rows]


def test_spherical_logits():
    head = SphericalHead(K, DIM, temperature=0.2)
    x = features(3, DIM)
    h, w = unit(x.double().tolist()), unit(head.weight.double().tolist())
    expected = torch.tensor([[sum(a * b for a, b in zip(i, j)) / 0.2 for j in w] for i in h], dtype=torch.float64)
    torch.testing.assert_close(head((x, )).double(), expected, rtol=0, atol=1e-5)
    head.weight.data *= 1e3  # no length counts
    torch.testing.assert_close(head((1e-3 * x, )).double(), expected, rtol=0, atol=1e-5)
    with torch.autocast('cpu', torch.bfloat16):
        assert head((x.bfloat16(), )).dtype == torch.float32


@pytest.mark.parametrize('start', [0.011, 0.1, 0.9])
def test_learned_temperature_starts_where_it_is_told_and_stays_in_its_range(start):
    head = SphericalHead(2, 2, temperature=start, learnable_temperature=True)
    assert head.scale.item() == pytest.approx(1 / start, rel=1e-5)
    head.weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    x, labels = torch.tensor([[0.1, 2.0], [-0.1, 2.0]]), samples([0, 1])
    head.loss((x, ), labels)['loss'].backward()
    assert head.temperature_logit.grad > 0  # right features: a smaller temperature lowers the loss
    for value, bound in ((-50.0, 0.01), (50.0, 1.0)):
        head.temperature_logit.data.fill_(value)
        assert 1 / head.scale.item() == pytest.approx(bound, rel=1e-5)


def reference(batches, momentum):
    """The update of the class means by loops, in float64."""
    means = [[0.0] * DIM for _ in range(K)]
    for x, labels in batches:
        for k in range(K):
            rows = [row for row, label in zip(unit(x.double().tolist()), labels.tolist()) if label == k]
            if rows:
                new = [momentum * m + (1 - momentum) * sum(column) for m, column in zip(means[k], zip(*rows))]
                means[k] = unit([new])[0]
    return torch.tensor(means, dtype=torch.float64)


@pytest.mark.parametrize('momentum', [0.0, 0.1, 0.9])
def test_class_means_follow_the_features(momentum):
    head = CMFHead(K, DIM, momentum=momentum)
    assert not list(head.parameters())
    batches = [(features(9, DIM, seed=i), torch.tensor(y)) for i, y in
               enumerate([[0, 0, 1, 1, 1, 2, 4, 4, 4], [1, 3, 3, 1, 0, 0, 0, 0, 4], [2] * 9])]
    for x, labels in batches:
        loss = head.loss((x, ), samples(labels))['loss']
        seen = (head.weight != 0).any(1)
        rows = unit(x.double().tolist())  # the loss has the new means already, and only the classes that are seen
        logits = torch.tensor(rows, dtype=torch.float64) @ head.weight.double()[seen].T / 0.1
        place = torch.cumsum(seen, 0) - 1
        expected = nn.functional.cross_entropy(logits, place[labels])
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(head.weight.double(), reference(batches, momentum), rtol=0, atol=1e-6)
    head.eval()
    before = head.weight.clone()
    assert (head((features(50, DIM), ))[:, 5:] == -1e4).all()  # classes 5 and 6 never came: never predicted
    head.loss((features(3, DIM), ), samples([5, 6, 5]))
    assert torch.equal(head.weight, before)


def test_class_means_take_soft_labels_and_give_no_gradient():
    head, x = CMFHead(3, 2, momentum=0.5), torch.tensor([[2.0, 0.0], [0.0, 1.0]], requires_grad=True)
    soft = [DataSample().set_gt_score(torch.tensor(s)) for s in ([0.75, 0.25, 0.0], [0.0, 1.0, 0.0])]
    loss = head.loss((x, ), soft)['loss']
    expected = torch.tensor([[1.0, 0.0], [0.25 / 17**0.5 * 4, 4 / 17**0.5], [0.0, 0.0]])
    torch.testing.assert_close(head.weight, expected)
    loss.backward()
    z = x.detach().clone().requires_grad_()
    logits = 10 * nn.functional.normalize(z) @ expected[:2].T
    target = torch.stack([s.gt_score for s in soft])[:, :2]
    (-(target * logits.log_softmax(1)).sum(1)).mean().backward()
    torch.testing.assert_close(x.grad, z.grad)


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_class_means_survive_a_step_that_overflowed(momentum):
    head = CMFHead(3, 2, momentum=momentum)
    head.loss((torch.eye(2), ), samples([0, 1]))
    before = head.weight.clone()
    broken = torch.tensor([[float('inf'), 1.0], [float('nan'), 1.0], [float('nan'), 0.0]])
    assert head.loss((broken, ), samples([0, 1, 2]))['loss'].isnan()  # and it is not hidden
    assert torch.equal(head.weight, before)


@pytest.mark.parametrize('kind', HEADS)
@pytest.mark.parametrize('loss', [CE, DR, dict(type='LabelSmoothLoss', label_smooth_val=0.1),
                                  dict(type='LogitAdjustedLoss', num_per_class=list(range(1, K + 1)))])
def test_one_step_in_a_plain_image_classifier(kind, loss):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model = MODELS.build(dict(
            type='ImageClassifier', backbone=dict(type='ResNetCIFAR6n2', depth=20, base_channels=4),
            neck=dict(type='LinearNeck', in_channels=16, out_channels=DIM, gap_dim=2, norm_cfg=None),
            head=dict(type=kind, num_classes=K, in_channels=DIM, loss=loss, cal_acc=True),
            data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3)))
    model.init_weights()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    data = dict(inputs=[torch.randint(256, (3, 16, 16), dtype=torch.uint8) for _ in range(8)],
                data_samples=samples([0, 1, 2, 3] * 2))
    log = model.train_step(data, wrapper)
    assert log['loss'].isfinite() and 0 <= log['accuracy_top-1'] <= 100
    assert [name for name, p in model.named_parameters() if torch.equal(before[name], p)] == []
    predictions = model.eval().test_step(data)
    assert all(sample.pred_score.sum().item() == pytest.approx(1, abs=1e-5) for sample in predictions)


@pytest.mark.parametrize('kind, settings', [
    ('SphericalHead', dict(learnable_temperature=True, norm_cfg=dict(type='BN1d'))),
    ('CMFHead', dict()),
    ('SoftmaxCodeHead', dict(loss=CE, learnable_length=True, rotation=True)),
])
def test_state_dict(kind, settings, tmp_path):
    torch.manual_seed(0)
    source, target = build(kind, **settings), build(kind, **settings)
    for parameter in source.parameters():
        parameter.data.add_(0.1)
    source.loss((features(20, DIM), ), samples(range(5)) * 4)
    source.eval(), target.eval()
    x = (features(5, DIM), )
    assert not torch.allclose(source(x), target(x))
    target.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(source(x), target(x)) and torch.equal(copy.deepcopy(target)(x), target(x))

    match = (rf'of shape \(num_classes, in_channels\) = \({K}, {DIM}\), but this {kind} has \({K - 1}, {DIM}\).*'
             'set num_classes and in_channels')
    with pytest.raises(ValueError, match=match):
        build(kind, num_classes=K - 1, **settings).load_state_dict(source.state_dict())
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'epoch_1.pth')
    with pytest.raises(ValueError, match=rf'{kind} has \({K}, {DIM + 1}\)'):  # mmengine's own loader is not strict
        load_checkpoint(build(kind, in_channels=DIM + 1, **settings), str(tmp_path / 'epoch_1.pth'), strict=False)


def test_softmax_code_head_is_the_code_in_the_given_order():
    head = SoftmaxCodeHead(4, 2, loss=CE, length=10.0)
    cosines = head.code @ head.code.T
    assert sorted(cosines[0].tolist()) == pytest.approx([-1, 0, 0, 1], abs=1e-6)  # the square
    order = [2, 0, 3, 1]
    assert torch.equal(SoftmaxCodeHead(4, 2, assignment=order).code, head.code[order])
    torch.testing.assert_close(head((3 * head.code, )), 10 * cosines)
    assert not list(head.parameters())


@pytest.mark.parametrize('kind', HEADS)
def test_bad_settings_of_all(kind):
    with pytest.raises(ValueError, match=rf'{kind}\(num_classes=1, in_channels={DIM}\): expected `num_classes` .*2'):
        build(kind, num_classes=1)
    with pytest.raises(ValueError, match=rf'{kind}\(num_classes={K}, in_channels=0\): expected `in_channels` .*1'):
        build(kind, in_channels=0)
    with pytest.raises(ValueError, match=rf'{kind} expects features .*in_channels={DIM}\), but got \(2, 3\)'):
        build(kind)((torch.zeros(2, 3), ))
    soft = [DataSample().set_gt_score(torch.eye(K)[0])]
    with pytest.raises(ValueError, match=rf'{kind}\(cal_acc=True\) got soft labels'):
        build(kind, cal_acc=True).loss((torch.ones(1, DIM), ), soft)


def test_bad_settings_of_each():
    for kind in ('SphericalHead', 'CMFHead'):
        with pytest.raises(ValueError, match=f'`temperature` of {kind} to be positive, but got 0'):
            build(kind, temperature=0)
        with pytest.raises(ValueError, match=r'low < temperature < high.*temperature=2.*range=\(0.01, 1.0\)'):
            build(kind, temperature=2, learnable_temperature=True)
        with pytest.raises(ValueError, match='learnable_temperature=True.*DRLoss works on features.*CrossEntropyLoss'):
            build(kind, loss=DR, learnable_temperature=True)
        with pytest.warns(UserWarning, match=f'{kind} with DRLoss attracts only'):
            MODELS.build(dict(type=kind, num_classes=K, in_channels=DIM, loss=DR))
    with pytest.raises(ValueError, match=r'`momentum` of CMFHead in \[0, 1\), but got 1'):
        CMFHead(K, DIM, momentum=1.0)
    with pytest.raises(ValueError, match=r'`assignment` of SoftmaxCodeHead to hold each of 0..3 once, but got \[0, 0'):
        SoftmaxCodeHead(4, 2, assignment=[0, 0, 1, 2])
