import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample

from allnc_mm.functional import class_means, hycon_loss, p2p_loss
from allnc_mm.models import ClassMeans, HyConLoss, LogitAdjustedLoss, P2PLoss
from allnc_mm.registry import MODELS

K, DIM = 5, 6
LABELS = torch.tensor([0, 0, 1, 3, 4, 4, 3, 1])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# ---------------------------------------------------------------------------------------------------- HyCon and P2P


@pytest.mark.parametrize('settings', [
    dict(), dict(positives=['mean'], class_balanced=True, loss_weight=3.0), dict(stop_gradient=False),
    dict(negatives=True, positives=['view', 'class', 'mean'], temperature=0.5, loss_weight=0.1),
])
def test_hycon_component_is_its_function(settings):
    loss = MODELS.build(dict(type='HyConLoss', **settings))
    assert isinstance(loss, HyConLoss)
    pred, target, prototypes = torch.randn(8, DIM), torch.randn(8, DIM, requires_grad=True), torch.randn(K, DIM)
    present = torch.tensor([1, 1, 0, 1, 0], dtype=torch.bool)
    value = loss(pred.requires_grad_(), target, LABELS, prototypes, present, num_views=2)
    settings = dict(settings)
    weight = settings.pop('loss_weight', 1.0)
    expected = weight * hycon_loss(pred, target, LABELS, prototypes, present=present, num_views=2, **settings)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert pred.grad.any() and (target.grad is None) == settings.get('stop_gradient', True)


def test_hycon_component_without_prototypes():
    loss = HyConLoss(positives=['class'], negatives=True)
    x = torch.randn(8, DIM)
    expected = hycon_loss(x, x, LABELS, positives=['class'], negatives=True, num_classes=K)
    torch.testing.assert_close(loss(x, x, LABELS, num_classes=K), expected)


@pytest.mark.parametrize('temperature', [0, -1.0, float('nan')])
def test_hycon_component_refuses(temperature):
    with pytest.raises(ValueError, match='Expected `temperature` to be positive.*0.1 is usual'):
        HyConLoss(temperature=temperature)


@pytest.mark.parametrize('settings', [dict(positives=['views']), dict(positives=[]), dict(positives=['class', 'mean'])])
def test_hycon_component_refuses_positives_when_it_is_built(settings):
    with pytest.raises(ValueError, match='`positives`'):
        HyConLoss(**settings)


@pytest.mark.parametrize('settings', [
    dict(), dict(means_weight=0.5, classifier_weight=2.0, cross_weight=0.25, norm_weight=0.1, loss_weight=3.0),
    dict(target='hinge'),
])
def test_p2p_component_is_its_function(settings):
    loss = MODELS.build(dict(type='P2PLoss', **settings))
    assert isinstance(loss, P2PLoss) and loss.needs_means
    means, weight = torch.randn(K, DIM), torch.randn(K, DIM)
    present = torch.tensor([1, 1, 0, 1, 1], dtype=torch.bool)
    settings = dict(settings)
    factor = settings.pop('loss_weight', 1.0)
    expected = factor * p2p_loss(means, weight, present=present, **settings)
    torch.testing.assert_close(loss(means, weight, present), expected)


def test_p2p_component_asks_for_means_only_where_they_are_read():
    assert not P2PLoss(means_weight=0, cross_weight=0).needs_means
    assert P2PLoss(means_weight=0).needs_means and P2PLoss(cross_weight=0).needs_means
    weight = torch.randn(K, DIM, requires_grad=True)
    loss = P2PLoss(means_weight=0, cross_weight=0)
    torch.testing.assert_close(loss(None, weight), p2p_loss(None, weight))


def test_p2p_component_draws_classes_anew_where_there_are_more():
    weight = torch.randn(K, DIM)
    few, all_of_them = P2PLoss(max_classes=K - 2), P2PLoss(max_classes=K)
    torch.testing.assert_close(all_of_them(None, weight), p2p_loss(None, weight))
    values = [few(None, weight) for _ in range(400)]
    assert len({value.item() for value in values}) > 3
    torch.testing.assert_close(torch.stack(values).mean(), p2p_loss(None, weight), rtol=0.1, atol=0)


def test_p2p_component_with_all_terms_off_is_a_zero_with_a_gradient():
    weight = torch.randn(K, DIM, requires_grad=True)
    loss = P2PLoss(means_weight=0, cross_weight=0, classifier_weight=0)(None, weight)
    loss.backward()
    assert loss.item() == 0 and not weight.grad.any()


@pytest.mark.parametrize('settings, message', [
    (dict(target='simplex'), r"Expected `target` to be one of \('etf', 'hinge', 'softmax_code'\), but got 'simplex'"),
    (dict(max_classes=1), 'Expected `max_classes` of at least 2 or None, but got 1'),
    (dict(cross_weight=-1.0), "Expected weights >= 0, but got {'cross': -1.0}"),
])
def test_p2p_component_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        P2PLoss(**settings)


# ------------------------------------------------------------------------------------------------------- class means


def test_class_means_of_the_batch():
    means = ClassMeans(K, DIM, momentum=0)
    assert not means.state_dict()
    x = torch.randn(8, DIM, requires_grad=True)
    value, present = means(x, LABELS)
    expected, counts = class_means(x, LABELS, K)
    assert torch.equal(value, expected) and torch.equal(present, counts > 0)


@pytest.mark.parametrize('soft', [False, True])
def test_moving_class_means(soft):
    """Means over all samples so far, a batch being worth .9 of the next one; the gradient is the last batch's."""
    means = ClassMeans(K, DIM, momentum=0.9)
    batches = [(torch.randn(8, DIM), torch.rand(8, K).softmax(1) if soft else torch.randint(0, K - 1, (8, )))
               for _ in range(3)]
    x = batches[-1][0].requires_grad_()
    for features, labels in batches:
        value, present = means(features, labels)
    assert present.tolist() == [True] * (K - 1) + [soft]
    for k in range(K):
        sums, counts = torch.zeros(DIM), 0.0
        for features, labels in batches:
            share = labels[:, k] if soft else (labels == k).float()
            if share.sum():
                sums, counts = 0.9 * sums + share @ features.detach(), 0.9 * counts + share.sum()
        expected = sums / counts if counts else torch.zeros(DIM)
        torch.testing.assert_close(value[k], expected, atol=1e-5, rtol=1e-5)
    labels = batches[-1][1]
    for k in range(K):
        grad, = torch.autograd.grad(value[k].sum(), x, retain_graph=True)
        share = labels[:, k] if soft else (labels == k).float()
        share = share / share.sum().clamp_min(1e-9)
        torch.testing.assert_close(grad, share[:, None].expand_as(grad))


def test_moving_means_are_state():
    one, two = ClassMeans(K, DIM), ClassMeans(K, DIM)
    one(torch.randn(8, DIM), LABELS)
    two.load_state_dict(one.state_dict())
    x = torch.randn(8, DIM)
    assert torch.equal(one(x, LABELS)[0], two(x, LABELS)[0])
    assert one.sums.dtype == torch.float32 and not one.sums.requires_grad


# ---------------------------------------------------------------------------------------------------- logit adjustment

COUNTS = [60, 25, 10, 4, 1]


@pytest.mark.parametrize('tau', [0.0, 1.0, 1.5])
@pytest.mark.parametrize('soft', [False, True])
def test_logit_adjusted_loss(tau, soft):
    loss = MODELS.build(dict(type='LogitAdjustedLoss', tau=tau, num_per_class=COUNTS, loss_weight=2.0))
    assert isinstance(loss, LogitAdjustedLoss)
    logits, labels = torch.randn(8, K), torch.rand(8, K).softmax(1) if soft else LABELS
    prior = [n / 100 for n in COUNTS]
    each = []
    for i in range(8):
        z = [logits[i, k].item() + tau * math.log(prior[k]) for k in range(K)]
        log_sum = math.log(sum(math.exp(a) for a in z))
        y = labels[i].tolist() if soft else F.one_hot(labels[i], K).tolist()
        each.append(-sum(y[k] * (z[k] - log_sum) for k in range(K)))
    assert loss(logits, labels).item() == pytest.approx(2 * sum(each) / 8, rel=1e-5)
    assert loss(logits, labels, reduction_override='none').tolist() == pytest.approx([2 * v for v in each], rel=1e-5)
    assert loss(logits, labels, reduction_override='sum').item() == pytest.approx(2 * sum(each), rel=1e-5)
    assert loss(logits, labels, avg_factor=4).item() == pytest.approx(2 * sum(each) / 4, rel=1e-5)
    weight = torch.rand(8)
    weighted = 2 * sum(w * v for w, v in zip(weight.tolist(), each)) / 8
    assert loss(logits, labels, weight=weight).item() == pytest.approx(weighted, rel=1e-5)


def test_plain_cross_entropy_needs_no_counts():
    logits = torch.randn(8, K)
    loss = LogitAdjustedLoss(tau=0)
    torch.testing.assert_close(loss(logits, LABELS), F.cross_entropy(logits, LABELS))
    loss.set_class_counts([5, 0, 3, 2, 1])  # nor does an empty class hurt it
    torch.testing.assert_close(loss(logits, LABELS), F.cross_entropy(logits, LABELS))


def test_in_a_stock_head():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        loss = dict(type='LogitAdjustedLoss', num_per_class=COUNTS)
        head = MODELS.build(dict(type='LinearClsHead', num_classes=K, in_channels=DIM, loss=loss))
    z = torch.randn(8, DIM)
    value = head.loss((z, ), [DataSample().set_gt_label(y) for y in LABELS.tolist()])['loss']
    shifted = head.fc(z) + torch.tensor(COUNTS).div(100).log()
    torch.testing.assert_close(value, F.cross_entropy(shifted, LABELS))


def test_the_prior_is_no_state():
    loss = LogitAdjustedLoss(num_per_class=COUNTS)
    assert not loss.state_dict()
    LogitAdjustedLoss().load_state_dict(loss.state_dict())
    loss.set_prior([3.0] * K)  # any positive multiple of a distribution
    torch.testing.assert_close(loss.log_prior, torch.full((K, ), 1 / K).log())


def test_logit_adjusted_loss_refuses():
    with pytest.raises(ValueError, match="Expected `reduction` to be one of 'none', 'mean', 'sum', but got 'avg'"):
        LogitAdjustedLoss(reduction='avg')
    with pytest.raises(RuntimeError, match='no class counts: add dict.*ClassCountsHook.*or give `num_per_class`'):
        LogitAdjustedLoss()(torch.randn(8, K), LABELS)
    with pytest.raises(ValueError, match='class counts are of K=4 classes, the logits of 5; set head.num_classes'):
        LogitAdjustedLoss(num_per_class=[1, 2, 3, 4])(torch.randn(8, K), LABELS)
    with pytest.raises(ValueError, match=r'positive share of each class.*classes \[1, 3\]'):
        LogitAdjustedLoss(num_per_class=[4, 0, 1, 0, 2])
    with pytest.raises(ValueError, match='positive share'):
        LogitAdjustedLoss().set_prior([1.0, float('inf')])
    loss = LogitAdjustedLoss(num_per_class=COUNTS)
    loss.set_class_counts(COUNTS)
    with pytest.raises(ValueError, match=r'is \[60, 25, 10, 4, 1\].*data set has \[60, 25, 10, 4, 2\].*remove it'):
        loss.set_class_counts([60, 25, 10, 4, 2])
