import copy
import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample

from allnc_mm.functional import (
    class_means,
    cosine_moments,
    hycon_loss,
    logit_adjusted_cross_entropy,
    one_hot,
    p2p_loss,
)
from allnc_mm.models import AllNC, AllNCHead
from allnc_mm.registry import MODELS

K, DIM = 5, 16
COUNTS = [50, 20, 10, 4, 2]
LOG_PRIOR = (torch.tensor(COUNTS) / sum(COUNTS)).log()
LABELS = [0, 0, 1, 3, 4, 4, 3, 1]  # natural half, re-balanced half; class 2 is absent
NECK = dict(type='NonLinearNeck', hid_channels=12, out_channels=8, with_avg_pool=False, norm_cfg=dict(type='BN1d'))
PROJECTOR, PREDICTOR = dict(NECK, in_channels=DIM), dict(NECK, in_channels=8)
HYCON, P2P = dict(type='HyConLoss'), dict(type='P2PLoss')


@pytest.fixture(autouse=True)
def scope():
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def build_head(**kwargs):
    head = MODELS.build(dict(dict(type='AllNCHead', num_classes=K, in_channels=DIM), **kwargs))
    head.init_weights()
    for module in head.modules():
        if hasattr(module, 'set_class_counts'):
            module.set_class_counts(COUNTS)
    return head


def build(kind='AllNC', head=None, **kwargs):
    cfg = dict(
        type=kind,
        backbone=dict(type='ResNetCIFAR6n2', depth=20, base_channels=DIM // 4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(dict(type='AllNCHead', num_classes=K, in_channels=DIM), **(head or {})))
    model = MODELS.build(dict(cfg, **kwargs))
    model.init_weights()
    for module in model.modules():
        if hasattr(module, 'set_class_counts'):
            module.set_class_counts(COUNTS)
    return model


def samples(labels=LABELS):
    return [DataSample().set_gt_label(label) for label in labels]


def batch(num_views=1):
    images = torch.randint(0, 256, (len(LABELS), 3, 16, 16), dtype=torch.uint8)
    inputs = images if num_views == 1 else [images.flip(v % 4) if v else images for v in range(num_views)]
    return dict(inputs=inputs, data_samples=samples())


def step(model, data, lr=0.1):
    """One training step; the logged values as floats."""
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=lr))
    model.train()
    return {name: value.item() for name, value in model.train_step(data, optim_wrapper=wrapper).items()}


def features(rows=8):
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(1)) + 1


# ------------------------------------------------------------------------------------------- the losses of the head


@pytest.mark.parametrize('eta', [1.0, 0.3, 0.0])
@pytest.mark.parametrize('share', [True, False])
@pytest.mark.parametrize('num_views', [1, 2])
def test_branches_read_their_halves(num_views, share, eta):
    head = build_head(share_classifier=share)
    head.set_eta(eta)
    z = features(num_views * len(LABELS))
    losses = head.loss((z, ), samples() * num_views, num_views=num_views, bilateral=True)

    y = torch.tensor(LABELS)
    first = head.fc if share else head.fc_uniform
    uniform, rebalanced = [], []
    for v in range(num_views):
        view = z[v * 8:(v + 1) * 8]
        uniform.append(F.cross_entropy(first(view[:4]), y[:4]))
        rebalanced.append(logit_adjusted_cross_entropy(head.fc(view[4:]), y[4:], LOG_PRIOR).mean())
    torch.testing.assert_close(losses['loss_uniform'], eta * sum(uniform) / num_views)
    torch.testing.assert_close(losses['loss_rebalanced'], (1 - eta) * sum(rebalanced) / num_views)
    assert losses['gbbn_eta'].item() == pytest.approx(eta)


def test_without_bilateral_batches_every_row_serves_both_branches():
    head = build_head()
    head.set_eta(0.25)
    z, y = features(), torch.tensor(LABELS)
    losses = head.loss((z, ), samples())
    torch.testing.assert_close(losses['loss_uniform'], 0.25 * F.cross_entropy(head.fc(z), y))
    torch.testing.assert_close(losses['loss_rebalanced'],
                               0.75 * logit_adjusted_cross_entropy(head.fc(z), y, LOG_PRIOR).mean())


@pytest.mark.parametrize('kind', ['soft_labels', 'gt_score'])
def test_soft_labels_reach_every_loss(kind):
    head = build_head(hycon=HYCON, p2p=P2P, momentum=0)
    z, soft = features(), torch.rand(8, K).softmax(1)
    if kind == 'soft_labels':
        losses = head.loss((z, ), samples(), num_views=2, soft_labels=soft)
    else:
        losses = head.loss((z, ), [DataSample().set_gt_score(s) for s in soft], num_views=2)
    torch.testing.assert_close(losses['loss_uniform'], F.cross_entropy(head.fc(z), soft))
    means, _ = class_means(z, soft, K)
    torch.testing.assert_close(losses['loss_p2p'], p2p_loss(means, head.fc.weight))
    directions, _ = class_means(F.normalize(z), soft, K)
    torch.testing.assert_close(losses['loss_hycon'], hycon_loss(z, z, soft, directions, num_views=2))


def test_geometry_terms_of_the_batch():
    head = build_head(hycon=HYCON, p2p=P2P, momentum=0)
    z, y = features(), torch.tensor(LABELS)
    losses = head.loss((z, ), samples(), num_views=2)
    means, counts = class_means(z, y, K)
    present = counts > 0
    assert present.tolist() == [True, True, False, True, True]
    torch.testing.assert_close(losses['loss_p2p'], p2p_loss(means, head.fc.weight, present=present))
    directions, _ = class_means(F.normalize(z), y, K)
    torch.testing.assert_close(losses['loss_hycon'], hycon_loss(z, z, y, directions, present=present, num_views=2))
    torch.testing.assert_close(losses['std_cos_means'], cosine_moments(means, present)[1])
    mean, std = cosine_moments(head.fc.weight)
    assert torch.equal(losses['cos_mean_w'], mean) and torch.equal(losses['std_cos_w'], std)


def test_moving_means_in_value_batch_means_in_gradient():
    head = build_head(p2p=dict(P2P, loss_weight=2.0), momentum=0.9)
    head.loss((features() + 1, ), samples())
    z, y = features().requires_grad_(), torch.tensor(LABELS)
    losses = head.loss((z, ), samples())
    first, second = (class_means(x, y, K)[0] for x in (features() + 1, features()))
    present = torch.tensor([1, 1, 0, 1, 1], dtype=torch.bool)
    value = ((0.9 * first + second) / 1.9).requires_grad_()  # both with weight .1, the older one times .9
    expected = 2 * p2p_loss(value, head.fc.weight, present=present)
    torch.testing.assert_close(losses['loss_p2p'], expected)
    of_mean, = torch.autograd.grad(expected, value)
    grad, = torch.autograd.grad(losses['loss_p2p'], z)
    count = torch.bincount(y, minlength=K)
    torch.testing.assert_close(grad, of_mean[y] / count[y][:, None])  # undamped


def test_a_class_absent_from_the_batch_keeps_its_moving_mean():
    head = build_head(p2p=P2P, momentum=0.9)
    z = features()
    head.loss((z, ), samples([0, 1, 2, 2, 3, 4, 4, 0]))
    before = head.p2p_means.sums[2].clone(), head.p2p_means.counts[2].clone()
    losses = head.loss((z, ), samples())
    assert torch.equal(head.p2p_means.sums[2], before[0]) and head.p2p_means.counts[2] == before[1]
    means = head.p2p_means.sums / head.p2p_means.counts[:, None]
    torch.testing.assert_close(means[2], (z[2] + z[3]) / 2)
    torch.testing.assert_close(losses['loss_p2p'], p2p_loss(means, head.fc.weight))


def test_projector_and_predictor_feed_hycon_alone():
    head = build_head(hycon=HYCON, p2p=P2P, projector=PROJECTOR, predictor=PREDICTOR, proj_channels=8, momentum=0)
    z, y = features(), torch.tensor(LABELS)
    reference = copy.deepcopy(head)
    losses = head.loss((z, ), samples(), num_views=2)
    g = reference.projector((z, ))[0]
    p = reference.predictor((g, ))[0]
    directions, counts = class_means(F.normalize(g), y, K)
    torch.testing.assert_close(losses['loss_hycon'],
                               hycon_loss(p, g, y, directions, present=counts > 0, num_views=2))
    means, _ = class_means(z, y, K)
    torch.testing.assert_close(losses['loss_p2p'], p2p_loss(means, head.fc.weight, present=counts > 0))
    assert head.hycon_means.momentum == 0 and not list(head.hycon_means.buffers())


def test_p2p_takes_clean_means_and_leaves_the_rest_to_the_mixture():
    head = build_head(p2p=P2P, momentum=0)
    z, soft = features(), torch.rand(8, K).softmax(1)
    clean, labels = features(6) * 2 - 1, torch.tensor([0, 1, 2, 3, 4, 4])
    losses = head.loss((z, ), samples(), soft_labels=soft, clean=(clean, labels))
    torch.testing.assert_close(losses['loss_p2p'], p2p_loss(class_means(clean, labels, K)[0], head.fc.weight))
    torch.testing.assert_close(losses['loss_uniform'], F.cross_entropy(head.fc(z), soft))


def test_clean_means_of_a_cosine_classifier_are_directions():
    head = build_head(p2p=P2P, momentum=0, temperature=0.1)
    z, soft, labels = features(), torch.rand(8, K).softmax(1), torch.tensor([0, 1, 2, 3, 4, 4])
    clean = features(6) * 2 - 1
    one, two = (head.loss((z, ), samples(), soft_labels=soft, clean=(clean * scale, labels))['loss_p2p']
                for scale in (torch.ones(6, 1), torch.tensor([1.0, 2, 3, 4, 5, 6])[:, None]))
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize('feats, found', [(torch.zeros(8, DIM, 2, 2), r'\(8, 16, 2, 2\)'),
                                          (torch.zeros(8, 3), r'\(8, 3\)'), ((torch.zeros(8, DIM), ), 'tuple')])
def test_features_of_another_shape(feats, found):
    with pytest.raises(ValueError, match=rf'in_channels=16.*neck is {found}; set in_channels, or a neck that pools'):
        build_head().loss((feats, ), samples())


def test_a_dead_feature_has_no_large_gradient():
    """A row of zeros has no direction; without the stop-gradient it is a part of its class mean."""
    head = build_head(hycon=dict(HYCON, positives=['mean'], stop_gradient=False), momentum=0)
    z = features()
    z[0] = 0
    z.requires_grad_()
    head.loss((z, ), samples())['loss_hycon'].backward()
    assert z.grad.isfinite().all() and z.grad.abs().max() < 1


def test_classifier_terms_alone_need_no_means():
    head = build_head(p2p=dict(P2P, means_weight=0, cross_weight=0, norm_weight=0.5))
    losses = head.loss((features(), ), samples())
    assert not hasattr(head, 'p2p_means') and 'std_cos_means' not in losses
    torch.testing.assert_close(losses['loss_p2p'], p2p_loss(None, head.fc.weight, norm_weight=0.5))


# ------------------------------------------------------------------------------------------------------- prediction


@pytest.mark.parametrize('predict_head', ['rebalanced', 'mean', 'uniform'])
def test_prediction_is_one_linear_map(predict_head):
    head = build_head(share_classifier=False, predict_head=predict_head, p2p=P2P, momentum=0)
    for fc in (head.fc, head.fc_uniform):
        fc.weight.data.normal_(), fc.bias.data.normal_()
    z = features()
    a, b = head.fc(z), head.fc_uniform(z)
    expected = dict(rebalanced=a, mean=(a + b) / 2, uniform=b)[predict_head]
    weight, bias = head.predict_map()
    torch.testing.assert_close(head((z, )), expected)
    torch.testing.assert_close(z @ weight.T + bias, expected)
    assert torch.equal(head.classifier_weight, weight)
    scores = torch.stack([sample.pred_score for sample in head.predict((z, ))])
    torch.testing.assert_close(scores, expected.softmax(1))
    # and it is the predicting classifier that the geometry terms shape
    losses = head.loss((z, ), samples())
    means, counts = class_means(z, torch.tensor(LABELS), K)
    torch.testing.assert_close(losses['loss_p2p'], p2p_loss(means, weight, present=counts > 0))


@pytest.mark.parametrize('predict_head', ['rebalanced', 'uniform'])
def test_cosine_classifier(predict_head):
    """Logits are cosines over the temperature; the lengths of features and vectors are nothing."""
    head = build_head(share_classifier=False, predict_head=predict_head, temperature=0.2, p2p=P2P, hycon=HYCON,
                      momentum=0)
    assert head.fc.bias is None and head.fc_uniform.bias is None
    z, labels = features(), torch.tensor(LABELS)
    a, b = (torch.stack([torch.stack([F.cosine_similarity(row, vector, dim=0) for vector in fc.weight]) for row in z])
            / 0.2 for fc in (head.fc, head.fc_uniform))
    losses = head.loss((z, ), samples())
    torch.testing.assert_close(losses['loss_uniform'], F.cross_entropy(b, labels))
    torch.testing.assert_close(head((z, )), a if predict_head == 'rebalanced' else b)
    weight, bias = head.predict_map()
    assert bias is None and torch.equal(head.classifier_weight, weight)
    torch.testing.assert_close(weight.norm(dim=1), torch.full((K, ), 5.0))
    head.fc.weight.data *= torch.rand(K, 1) + 0.5
    head.fc_uniform.weight.data *= torch.rand(K, 1) + 0.5
    again = head.loss((z * torch.linspace(0.1, 9, len(z))[:, None], ), samples())
    for name, value in losses.items():
        torch.testing.assert_close(again[name], value)


def test_training_parts_do_not_enter_the_prediction():
    model = build(head=dict(hycon=HYCON, p2p=P2P, projector=PROJECTOR, predictor=PREDICTOR, proj_channels=8,
                            share_classifier=False))
    images = torch.rand(3, 3, 16, 16)
    model.eval()
    before = model(images)
    for name, parameter in model.head.named_parameters():
        if not name.startswith('fc.'):
            parameter.data.fill_(float('nan'))
    assert torch.equal(model(images), before)
    predictions = model.test_step(dict(inputs=images, data_samples=samples([0, 1, 2])))
    assert [p.pred_score.shape for p in predictions] == [(K, )] * 3


# ------------------------------------------------------------------------------------------ training steps, switches

SWITCHES = {
    'plain': dict(),
    'two classifiers': dict(head=dict(share_classifier=False)),
    'two classifiers, mean predicts': dict(head=dict(share_classifier=False, predict_head='mean', p2p=P2P)),
    'uniform predicts': dict(head=dict(share_classifier=False, predict_head='uniform', p2p=P2P)),
    'cosine classifier': dict(head=dict(temperature=1 / 30, hycon=HYCON, p2p=P2P)),
    'hycon': dict(head=dict(hycon=HYCON)),
    'p2p': dict(head=dict(p2p=P2P)),
    'p2p hinge with norms': dict(head=dict(p2p=dict(P2P, target='hinge', norm_weight=1.0))),
    'all, batch means': dict(head=dict(hycon=HYCON, p2p=P2P, momentum=0)),
    'contrast': dict(head=dict(hycon=dict(HYCON, negatives=True, positives=['view', 'class', 'mean']), p2p=P2P)),
    'contrast without means': dict(head=dict(hycon=dict(HYCON, negatives=True, positives=['class']))),
    'projector': dict(head=dict(hycon=HYCON, projector=PROJECTOR, proj_channels=8)),
    'projector, predictor': dict(head=dict(hycon=HYCON, projector=PROJECTOR, predictor=PREDICTOR, proj_channels=8)),
    'predictor': dict(head=dict(hycon=HYCON, predictor=dict(PROJECTOR, out_channels=DIM))),
    'gradients to the targets': dict(head=dict(hycon=dict(HYCON, stop_gradient=False), momentum=0)),
    'other losses': dict(head=dict(loss_uniform=dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=K),
                                   loss_rebalanced=dict(type='CrossEntropyLoss'))),
    'both halves for both branches': dict(shared=True),
    'mixture': dict(mixture=dict()),
    'mixture with everything': dict(
        mixture=dict(), head=dict(hycon=HYCON, p2p=P2P, projector=PROJECTOR, proj_channels=8)),
    'mixture, clean means': dict(mixture=dict(), clean_means=True, head=dict(hycon=HYCON, p2p=P2P)),
    'mixup alone, two classifiers': dict(mixture=dict(methods=['mixup'], alpha=0.4), head=dict(share_classifier=False)),
}


@pytest.mark.parametrize('num_views', [1, 2])
@pytest.mark.parametrize('name', SWITCHES)
def test_training_step(name, num_views):
    model = build(num_views=num_views, **SWITCHES[name])
    model.head.set_eta(0.5)
    losses = model(**model.data_preprocessor(batch(num_views), True), mode='loss')
    model.parse_losses(losses)[0].backward()
    for key, parameter in model.named_parameters():  # DistributedDataParallel waits for those without a gradient
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key

    before = {k: v.clone() for k, v in model.named_parameters()}
    logged = step(model, batch(num_views))
    assert logged['loss'] == pytest.approx(sum(v for k, v in logged.items() if k.startswith('loss_')), rel=1e-5)
    assert all(math.isfinite(v) for v in logged.values()), logged
    assert {'loss_uniform', 'loss_rebalanced', 'gbbn_eta', 'cos_mean_w', 'std_cos_w'} <= set(logged)
    head = SWITCHES[name].get('head', {})
    assert ('loss_hycon' in logged) == ('hycon' in head) and ('loss_p2p' in logged) == ('p2p' in head)
    assert any(not torch.equal(v, before[k]) for k, v in model.named_parameters() if k.startswith('backbone'))
    assert not torch.equal(model.head.fc.weight, before['head.fc.weight'])


@pytest.mark.parametrize('num_views', [1, 2])
def test_the_mixture_halves_the_images_and_clean_means_add_one_view(num_views):
    seen = []
    for clean_means in (False, True):
        model = build(num_views=num_views, mixture=dict(), clean_means=clean_means, head=dict(p2p=P2P))
        model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        step(model, batch(num_views))
    assert [len(x) for x in seen] == [4 * num_views, 4 * (num_views + 1)]
    data = batch(num_views)
    model.backbone.eval()
    model.loss(**model.data_preprocessor(data, True))
    first = data['inputs'] if num_views == 1 else data['inputs'][0]
    assert torch.equal(seen[-1][-4:], first[:4].float())  # the natural half of the first view, unmixed

    given = []
    model.head.loss = lambda feats, samples, **kwargs: given.append(kwargs['clean']) or {}
    model.loss(**model.data_preprocessor(batch(num_views), True))
    assert given[0][1].tolist() == LABELS[:4] and len(given[0][0]) == 4  # and its labels


def test_shared_halves_train_both_branches():
    model = build(shared=True).eval()  # BN as a constant
    model.head.set_eta(0.4)
    images = torch.rand(8, 3, 16, 16)
    losses = model.loss(images, samples())
    logits, labels = model.head.fc(model.extract_feat(images)[-1]), torch.tensor(LABELS)
    torch.testing.assert_close(losses['loss_uniform'], 0.4 * F.cross_entropy(logits, labels))
    expected = 0.6 * logit_adjusted_cross_entropy(logits, labels, LOG_PRIOR).mean()
    torch.testing.assert_close(losses['loss_rebalanced'], expected)


def test_a_mixed_step_against_its_parts():
    """The mixture's images go through the trunk, its labels into each loss."""
    model = build(num_views=2, mixture=dict(), head=dict(hycon=HYCON, p2p=P2P, momentum=0)).eval()  # BN as a constant
    model.head.set_eta(0.4)
    images = torch.rand(16, 3, 16, 16)
    mixed, soft = torch.rand(8, 3, 16, 16), torch.rand(8, K).softmax(1)
    model.mixture.forward = lambda *args: (mixed, soft)
    losses = model.loss(images, samples() * 2)
    z = model.extract_feat(mixed)[-1]
    torch.testing.assert_close(losses['loss_uniform'], 0.4 * F.cross_entropy(model.head.fc(z), soft))
    expected = 0.6 * logit_adjusted_cross_entropy(model.head.fc(z), soft, LOG_PRIOR).mean()
    torch.testing.assert_close(losses['loss_rebalanced'], expected)
    torch.testing.assert_close(losses['loss_p2p'], p2p_loss(class_means(z, soft, K)[0], model.head.fc.weight))


def test_inside_a_plain_image_classifier():
    model = build('ImageClassifier', dict(hycon=HYCON, p2p=P2P), data_preprocessor=dict(type='ClsDataPreprocessor'))
    model.head.set_eta(0.5)
    logged = step(model, batch())
    assert {'loss_uniform', 'loss_rebalanced', 'loss_hycon', 'loss_p2p', 'loss'} <= set(logged)
    assert len(model.test_step(batch())) == len(LABELS)


def test_the_loss_falls():
    model = build(head=dict(hycon=HYCON, p2p=dict(P2P, loss_weight=0.1), projector=PROJECTOR, proj_channels=8))
    model.head.set_eta(0.5)
    data = batch()
    values = [step(model, data, lr=0.05)['loss'] for _ in range(15)]
    assert values[-1] < values[0] - 0.5


@pytest.mark.parametrize('mixture', [None, dict()])
def test_losses_are_float32_under_bfloat16(mixture):
    """And not only in name: they are those of a float32 pass over the same features."""
    head = dict(hycon=dict(HYCON, negatives=True, positives=['view', 'class', 'mean']), p2p=P2P, momentum=0)
    model = build(num_views=2, mixture=mixture, head=head)
    data = model.data_preprocessor(batch(2), True)
    seen = []
    model.neck.register_forward_hook(lambda _, args, out: seen.append(out[-1]))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model.loss(**data)
    assert seen[-1].dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in losses.values())
    if mixture is None:
        again = model.head.loss((seen[-1].float(), ), data['data_samples'], num_views=2, bilateral=True)
        for name, value in losses.items():
            torch.testing.assert_close(value, again[name], rtol=1e-6, atol=1e-6)
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in model.parameters())


def test_state_dict_round_trip():
    settings = dict(num_views=2, mixture=dict(), head=dict(hycon=HYCON, p2p=P2P, projector=PROJECTOR, proj_channels=8,
                                                           share_classifier=False, predict_head='mean'))
    model = build(**settings)
    step(model, batch(2))
    state = model.state_dict()
    assert {'head.p2p_means.sums', 'head.p2p_means.counts', 'head.hycon_means.sums'} <= set(state)
    assert state['head.p2p_means.counts'].sum() > 0 and state['head.p2p_means.sums'].dtype == torch.float32
    assert not [k for k in state if 'eta' in k.split('.')[-1].split('_') or 'log_prior' in k]
    torch.manual_seed(99)
    other = build(**settings)
    other.load_state_dict(state, strict=True)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(other.eval()(images), model.eval()(images))
    for module in (model, other):
        module.train()
        module.mixture.forward = lambda images, y, *_: (images[[0, 1, 2, 3] * 2], one_hot(y[:4], K).repeat(2, 1))
    data = batch(2)
    one, two = (step(m, copy.deepcopy(data)) for m in (model, other))
    assert one == two


# --------------------------------------------------------------------------------------------------------- priors


def test_class_counts_are_handed_to_both_losses():
    head = build_head(loss_uniform=dict(type='LogitAdjustedLoss', tau=0.5))
    for loss in (head.loss_uniform, head.loss_module):
        torch.testing.assert_close(loss.log_prior, LOG_PRIOR)
    assert not [k for k in head.state_dict() if 'prior' in k]


def test_sampling_priors():
    model = build()
    natural, partner = [0.6, 0.2, 0.1, 0.06, 0.04], [2, 2, 2, 2, 2]
    model.set_sampling_priors(natural, partner)
    torch.testing.assert_close(model.head.loss_uniform.log_prior, torch.tensor(natural).log())
    torch.testing.assert_close(model.head.loss_module.log_prior, torch.full((K, ), 0.2).log())

    model = build(shared=True)
    model.set_sampling_priors(natural, partner)
    for loss in (model.head.loss_uniform, model.head.loss_module):
        torch.testing.assert_close(loss.log_prior, (torch.tensor(natural) / 2 + 0.1).log())

    for methods, share in ((['mixup'], 0.5), (['mixup', 'cutmix'], 0.679167)):
        model = build(mixture=dict(methods=methods), num_views=2)
        model.set_sampling_priors(natural, partner)
        expected = (share * torch.tensor(natural) + (1 - share) * 0.2).log()
        for loss in (model.head.loss_uniform, model.head.loss_module):
            torch.testing.assert_close(loss.log_prior, expected, atol=1e-5, rtol=1e-5)

    model = build(head=dict(loss_rebalanced=dict(type='CrossEntropyLoss')))  # needs no prior
    model.set_sampling_priors(natural, partner)


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize('settings, message', [
    (dict(num_classes=1), 'Expected `num_classes` >= 2, but got 1'),
    (dict(predict_head='both'), r"`predict_head` to be one of \('rebalanced', 'mean', 'uniform'\), but got 'both'"),
    (dict(predict_head='mean'), "`predict_head='mean'` needs two classifiers: set share_classifier=False"),
    (dict(temperature=0), 'Expected `temperature` to be positive, but got 0; 0.033 is usual, None is a linear'),
    (dict(temperature='1/30'), "Expected `temperature` to be positive, but got '1/30'; 0.033 is usual"),
    (dict(temperature=float('nan')), 'Expected `temperature`'),
    (dict(temperature=0.1, share_classifier=False, predict_head='mean'), 'mean of two cosine classifiers is none'),
    (dict(hycon=HYCON, projector=PROJECTOR), '`projector` and `proj_channels`.*go together'),
    (dict(hycon=HYCON, proj_channels=8), '`projector` and `proj_channels`.*go together'),
    (dict(projector=PROJECTOR, proj_channels=8), 'serve HyCon alone: give `hycon` or remove them'),
    (dict(predictor=PREDICTOR), 'serve HyCon alone'),
    (dict(p2p=P2P, num_classes=18), "K=18 classes needs d >= 17, but in_channels is 16; set p2p.target='hinge'"),
    (dict(p2p=P2P, momentum=1.0), r'Expected `momentum` in \[0, 1\), but got 1.0; 0 uses the batch alone'),
    (dict(hycon=HYCON, momentum=-0.1), 'Expected `momentum`'),
])
def test_head_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        build_head(**settings)


def test_an_etf_in_the_smallest_dimension_and_the_hinge_beyond():
    assert isinstance(MODELS.build(dict(type='AllNCHead', num_classes=17, in_channels=16, p2p=P2P)), AllNCHead)
    MODELS.build(dict(type='AllNCHead', num_classes=18, in_channels=16, p2p=dict(P2P, target='hinge')))


@pytest.mark.parametrize('settings, message', [
    (dict(num_views=0), 'Expected `num_views` >= 1, but got 0'),
    (dict(clean_means=True), '`clean_means` needs `mixture`'),
    (dict(shared=True, mixture=dict()), '`shared` is for training without `mixture`'),
    (dict(train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2)]), data_preprocessor=dict(num_classes=K)),
     "would mix the two branches of AllNC; remove them, and set mixture=dict\\(type='MixtureViews'\\)"),
])
def test_classifier_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


@pytest.mark.parametrize('num_views, rows', [(1, 7), (2, 6)])
def test_odd_batches(num_views, rows):
    model = build(num_views=num_views)
    with pytest.raises(ValueError, match=f'num_views={num_views} views of .*but got {rows} images; use Bilat'):
        model.loss(torch.rand(rows, 3, 16, 16), samples([0] * rows))


def test_it_is_registered_and_bilateral():
    model = build()
    assert isinstance(model, AllNC) and model.bilateral
    assert type(model.data_preprocessor).__name__ == 'MultiViewDataPreprocessor'


def test_a_compiled_step_does_not_recompile():
    """Whatever MixtureViews draws, and however eta moves."""
    from torch._dynamo.testing import CompileCounter
    torch._dynamo.reset()
    model = build(mixture=dict(type='MixtureViews'), head=dict(hycon=dict(HYCON, positives=['mean']), p2p=P2P))
    for layer in ('layer1', 'layer2', 'layer3'):  # a block each: less to compile
        setattr(model.backbone, layer, getattr(model.backbone, layer)[:1])
    wrapper, counter, frames = OptimWrapper(torch.optim.SGD(model.parameters(), 0.01)), CompileCounter(), []
    step = torch.compile(model.train_step, backend=counter)
    for i in range(6):
        model.head.set_eta(1 - i / 6)
        samples = [DataSample().set_gt_label(label) for label in LABELS]
        step(dict(inputs=torch.rand(len(LABELS), 3, 16, 16), data_samples=samples), optim_wrapper=wrapper)
        frames.append(counter.frame_count)
    assert len(set(frames)) == 1 and frames[0] > 0


def test_features_that_overflow_do_not_stay_in_the_means():
    """A loss scaler skips the step of such a batch; the buffers must not keep what it saw."""
    head = build_head(hycon=HYCON, p2p=P2P, momentum=0.9)
    z = features()
    head.loss((z, ), samples(), num_views=1)
    before = {name: value.clone() for name, value in head.named_buffers() if 'means' in name}
    bad = z.clone()
    bad[0, 0] = float('nan')
    assert head.loss((bad, ), samples())['loss_hycon'].isnan()  # and the step says so
    after = dict(head.named_buffers())
    assert before and all(torch.equal(value[LABELS[0]], after[name][LABELS[0]]) for name, value in before.items())
    assert all(after[name].isfinite().all() for name in before)
    assert all(value.isfinite() for name, value in head.loss((z, ), samples()).items() if 'loss' in name)


def test_a_view_term_without_a_second_view_is_refused():
    view = dict(type='HyConLoss', positives=['view'])
    with pytest.raises(ValueError, match=r"positives=\['view'\] alone needs a second view: set num_views=2"):
        build(head=dict(hycon=view))
    assert build(head=dict(hycon=view), num_views=2).num_views == 2
