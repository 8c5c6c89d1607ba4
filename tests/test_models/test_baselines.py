"""Losses and heads of the baselines against loops and published formulas, and a training step of each config."""
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from torch._subclasses.fake_tensor import FakeTensorMode

from allnc_mm.functional.geometry import unit_rows
from allnc_mm.functional.losses import hycon_loss
from allnc_mm.functional.margins import class_balanced_weights, ldam_cross_entropy, ldam_margins
from allnc_mm.functional.vmf import vmf_concentration, vmf_log_expectation
from allnc_mm.models import ResNetCIFAR6n2
from allnc_mm.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
MINI = 'resnet20_cifar10-lt-mini-if100'
COUNTS = [100, 20, 3, 1]


@pytest.fixture(autouse=True)
def scope():
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def build(cfg, counts=COUNTS):
    module = MODELS.build(cfg)
    for part in module.modules():
        if counts and hasattr(part, 'set_class_counts'):
            part.set_class_counts(counts)
    return module


LOGITS, LABELS = 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 0, 1, 1, 3, 0])
SOFT = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)).softmax(1)
CB = torch.as_tensor(class_balanced_weights(COUNTS)).float()


def test_ldam_loss():
    margins = torch.as_tensor(ldam_margins(COUNTS)).float()
    expected = ldam_cross_entropy(LOGITS, LABELS, 30 * margins)
    torch.testing.assert_close(build(dict(type='LDAMLoss'))(LOGITS, LABELS), expected.mean())
    weight = torch.arange(6.0)
    found = build(dict(type='LDAMLoss', loss_weight=2.0))(LOGITS, LABELS, weight, avg_factor=3)
    torch.testing.assert_close(found, 2 * (weight * expected).sum() / 3)
    found = build(dict(type='LDAMLoss', scale=1.0, max_margin=0.3))(LOGITS, SOFT, reduction_override='none')
    torch.testing.assert_close(found, ldam_cross_entropy(LOGITS, SOFT, 0.6 * margins))


def test_reweighted_loss_is_pytorchs_weighted_cross_entropy():
    loss = build(dict(type='ReweightedLoss', loss=dict(type='CrossEntropyLoss')))
    torch.testing.assert_close(loss(LOGITS, LABELS, avg_factor=6), F.cross_entropy(LOGITS, LABELS, weight=CB))
    torch.testing.assert_close(loss(LOGITS.bfloat16(), LABELS), loss(LOGITS.bfloat16().float(), LABELS))
    loss = build(dict(type='ReweightedLoss', normalize=False, loss_weight=2.0, loss=dict(type='CrossEntropyLoss')))
    expected = 2 * F.cross_entropy(LOGITS, LABELS, weight=CB, reduction='sum') / 6
    torch.testing.assert_close(loss(LOGITS, LABELS, avg_factor=6), expected)


def test_reweighted_loss_of_soft_labels_is_glmcs():
    """-1/N sum_i sum_k w_k y_ik log p_ik with w_k from n_k^-1.2."""
    loss = build(dict(type='ReweightedLoss', beta=None, power=1.2, normalize=False,
                      loss=dict(type='LogitAdjustedLoss', tau=0.0)))
    weight = torch.tensor(COUNTS).double()**-1.2
    weight = weight / weight.sum() * 4
    expected = -(weight * SOFT * LOGITS.double().log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss(LOGITS, SOFT).double(), expected, rtol=1e-5, atol=1e-6)


def test_the_loss_of_glmcs_config_is_the_published_one():
    """A sum over both views: eta CE, (1 - eta) weighted CE of the other classifier, minus cos(p, sg z of the other)."""
    eta, n, counts = 0.3, 5, [500 - 40 * k for k in range(10)]
    cfg = Config.fromfile(CONFIGS / 'glmc' / f'{MINI}.py').model.head
    head = build(cfg.to_dict(), counts)
    head.set_eta(eta)
    labels = torch.rand(n, 10).softmax(1)
    z = torch.randn(2 * n, 64, requires_grad=True)
    losses = head.loss((z, ), [], num_views=2, soft_labels=labels.repeat(2, 1))
    found, = torch.autograd.grad(sum(value for name, value in losses.items() if 'loss' in name), z)

    weight = torch.tensor(counts).float()**-cfg.loss_rebalanced.power
    weight = weight / weight.sum() * 10
    projected = [head.projector((view, ))[-1] for view in z.split(n)]
    total = 0
    for i in range(n):
        for view, feature in enumerate(z.split(n)):
            log_p, log_q = (fc(feature[i]).log_softmax(0) for fc in (head.fc_uniform, head.fc))
            total = total - eta * (labels[i] * log_p).sum() / n - (1 - eta) * (weight * labels[i] * log_q).sum() / n
            predicted = head.predictor((projected[view][i:i + 1], ))[-1][0]
            total = total - F.cosine_similarity(predicted, projected[1 - view][i].detach(), 0) / n
    expected, = torch.autograd.grad(total, z)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('kind', ['CrossEntropyLoss', 'LDAMLoss', 'LogitAdjustedLoss'])
def test_one_hot_and_integer_labels_agree(kind):
    inner = dict(type=kind)
    soft = dict(inner, use_soft=True) if kind == 'CrossEntropyLoss' else inner
    hard = build(dict(type='ReweightedLoss', loss=inner))(LOGITS, LABELS)
    one_hot = F.one_hot(LABELS, 4).float()
    torch.testing.assert_close(build(dict(type='ReweightedLoss', loss=soft))(LOGITS, one_hot), hard)


def test_class_balanced_focal_loss():
    """Cui et al.: sum over classes of -(1 - p_t)^gamma log p_t by sigmoids, times the weight of the label."""
    focal = dict(type='FocalLoss', gamma=2.0, alpha=0.5, loss_weight=2.0)
    signs = 2 * F.one_hot(LABELS, 4) - 1
    p = (signs * LOGITS.double()).sigmoid()
    per_sample = (-(1 - p)**2 * p.log()).sum(1)
    plain = build(focal)(LOGITS, LABELS, avg_factor=6)
    torch.testing.assert_close(plain.double(), per_sample.mean(), rtol=1e-5, atol=1e-6)
    loss = build(dict(type='ReweightedLoss', normalize=False, loss=focal))
    torch.testing.assert_close(loss(LOGITS, LABELS).double(), (CB[LABELS] * per_sample).mean(), rtol=1e-5, atol=1e-6)
    of_each_label = torch.stack([loss(LOGITS, torch.full((6, ), k)) for k in range(4)])  # their means over the samples
    torch.testing.assert_close(loss(LOGITS, SOFT[:1].expand(6, 4)), SOFT[0] @ of_each_label)


def test_focal_loss_of_a_mixture_is_the_mixture_of_focal_losses():
    """Its minimiser lies between .5 and the label's .8; that of mmpretrain's loss, given the soft label, beyond it."""
    focal = dict(type='FocalLoss', gamma=2.0, alpha=0.5, loss_weight=2.0)
    loss = build(dict(type='ReweightedLoss', beta=0.0, normalize=False, loss=focal), [500, 5])
    plain, label = build(focal), torch.tensor([[0.8, 0.2]])
    logits = torch.linspace(-4, 4, 801)[:, None] * torch.tensor([1.0, -1.0])
    mixed = [loss(row[None], label) for row in logits]
    expected = [0.8 * plain(row[None], torch.tensor([0]), avg_factor=1)
                + 0.2 * plain(row[None], torch.tensor([1]), avg_factor=1) for row in logits]
    torch.testing.assert_close(torch.stack(mixed), torch.stack(expected))
    best = logits[torch.stack(mixed).argmin(), 0].sigmoid()
    of_soft = logits[torch.stack([plain(row[None], label, avg_factor=1) for row in logits]).argmin(), 0].sigmoid()
    assert 0.5 < best < 0.8 < of_soft


def test_the_divisor_is_that_of_all_ranks(monkeypatch):
    """DistributedDataParallel averages what two ranks with half the batch each compute."""
    loss = build(dict(type='ReweightedLoss', loss=dict(type='CrossEntropyLoss')))
    whole, halves = loss(LOGITS, LABELS), (slice(0, 2), slice(2, 6))
    sums = torch.stack([CB[LABELS[half]].sum() for half in halves])
    monkeypatch.setattr('allnc_mm.models.losses.reweighted_loss.gather', lambda x: sums)
    torch.testing.assert_close(sum(loss(LOGITS[half], LABELS[half]) for half in halves) / 2, whole)


def test_deferred_reweighting():
    loss = build(dict(type='ReweightedLoss', loss=dict(type='CrossEntropyLoss')))
    loss.set_reweighting(False)
    torch.testing.assert_close(loss(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS))
    loss.set_reweighting(True)
    torch.testing.assert_close(loss(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS, weight=CB))
    assert not loss.state_dict()  # it follows from data and progress


def test_supcon_loss():
    z, prototypes = torch.randn(6, 5), torch.randn(4, 5)
    kwargs = dict(positives=('class', 'mean'), negatives=True, stop_gradient=False, num_classes=4, temperature=0.1)
    balanced = build(dict(type='SupConLoss', balanced=True, loss_weight=0.35))
    expected = 0.35 * hycon_loss(z, z, LABELS, prototypes, **kwargs)
    torch.testing.assert_close(balanced(z, LABELS, 4, 2, prototypes), expected)
    kwargs.update(positives=['class'], class_average=False, temperature=0.2)
    plain, z = build(dict(type='SupConLoss', temperature=0.2)), z.bfloat16()
    torch.testing.assert_close(plain(z, LABELS, 4, 2), hycon_loss(z.float(), z.float(), LABELS, **kwargs))


def test_proco_against_a_loop_over_two_epochs():
    """Means of all features since the beginning of the last epoch; unseen classes at 0.9 of a random direction."""
    loss = build(dict(type='ProCoLoss', num_classes=4, dim=16, temperature=0.2, loss_weight=0.5))
    log_prior = (torch.tensor(COUNTS) / sum(COUNTS)).log()
    epochs = []
    for _ in range(3):
        loss.start_epoch()
        epochs.append([])
        for _ in 'ab':
            z = torch.randn(6, 16, requires_grad=True)
            epochs[-1] += [(unit_rows(row).detach(), int(y)) for row, y in zip(z, LABELS)]
            found = loss(z, LABELS, num_views=2)
            known = [pair for part in epochs[-2:] for pair in part]
            means = loss.unseen.clone()
            for k in set(LABELS.tolist()):
                means[k] = torch.stack([row for row, y in known if y == k]).mean(0)
            logits = vmf_log_expectation(unit_rows(z), unit_rows(means), vmf_concentration(means), 0.2)
            expected = 0.5 * F.cross_entropy(logits + log_prior, LABELS)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(*(torch.autograd.grad(x, z)[0] for x in (found, expected)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss.unseen.norm(dim=1), torch.full((4, ), 0.9))


def test_features_that_overflow_do_not_stay_in_the_distributions():
    loss, z = build(dict(type='ProCoLoss', num_classes=4, dim=16)), torch.randn(6, 16)
    loss(z, LABELS)
    before = loss.sums.clone(), loss.counts.clone()
    spoilt = torch.where(LABELS[:, None] == 1, torch.nan, z)
    loss(spoilt, LABELS)
    rows = torch.arange(4) != 1
    assert torch.equal(loss.sums[1], before[0][1]) and torch.equal(loss.counts[1], before[1][1])
    torch.testing.assert_close(loss.counts[rows], 2 * before[1][rows])
    assert loss.sums.isfinite().all()


def test_proco_resumes_with_its_distributions():
    first, second = (build(dict(type='ProCoLoss', num_classes=4, dim=16)) for _ in range(2))
    z = torch.randn(6, 16)
    first(z, LABELS)
    second.load_state_dict(first.state_dict())
    for loss in (first, second):
        loss.start_epoch()
    assert torch.equal(first(z, LABELS), second(z, LABELS))


@pytest.mark.parametrize('cfg, match', [
    (dict(type='LDAMLoss', max_margin=-1.0), '`max_margin` to be positive, but got -1.0'),
    (dict(type='LDAMLoss', scale=0.0), '`scale` to be positive, but got 0.0'),
    (dict(type='LDAMLoss', reduction='all'), "`reduction` to be one of.*but got 'all'"),
    (dict(type='ReweightedLoss', loss=dict(type='CrossEntropyLoss'), power=1.0), 'one of `beta` and `power`'),
    (dict(type='ReweightedLoss', loss=dict(type='CrossEntropyLoss'), beta=2.0), r'`beta` in \[0, 1\), but got 2.0'),
    (dict(type='SupConLoss', temperature=0.0), '`temperature` to be positive'),
    (dict(type='ProCoLoss', num_classes=4, dim=8), '`dim` of ProCoLoss to be at least 16, but got 8'),
    (dict(type='ProCoLoss', num_classes=4, dim=16, temperature=-1.0), '`temperature` to be positive'),
])
def test_bad_settings(cfg, match):
    with pytest.raises(ValueError, match=match):
        MODELS.build(cfg)


@pytest.mark.parametrize('cfg', [dict(type='LDAMLoss'),
                                 dict(type='ReweightedLoss', loss=dict(type='CrossEntropyLoss'))])
def test_losses_without_counts_say_what_is_missing(cfg):
    with pytest.raises(RuntimeError, match='0 classes for 4 logits.*ClassCountsHook'):
        MODELS.build(cfg)(LOGITS, LABELS)
    with pytest.raises(ValueError, match='counts above 0'):
        build(cfg, [3, 0])


def test_proco_without_counts_and_with_an_empty_class():
    loss = build(dict(type='ProCoLoss', num_classes=4, dim=16), counts=None)
    with pytest.raises(RuntimeError, match='ClassCountsHook'):
        loss(torch.randn(6, 16), LABELS)
    with pytest.raises(ValueError, match=r'none of classes \[1\]'):
        loss.set_class_counts([3, 0, 1, 1])


LOSSES = [dict(type='LDAMLoss'), dict(type='ReweightedLoss', loss=dict(type='LDAMLoss')),
          dict(type='SupConLoss', balanced=True), dict(type='ProCoLoss', num_classes=4, dim=16)]


@pytest.mark.parametrize('cfg', LOSSES, ids=lambda cfg: cfg['type'])
def test_nothing_is_read_back_to_the_host(cfg):
    """Fake tensors cannot be read at all."""
    loss = build(cfg)
    dim = 16 if cfg['type'] in ('SupConLoss', 'ProCoLoss') else 4
    with FakeTensorMode(allow_non_fake_inputs=True):
        x, labels = torch.randn(6, dim, requires_grad=True), torch.zeros(6, dtype=torch.long)
        kwargs = dict(num_classes=4, num_views=2) if dim == 16 else dict(avg_factor=6)
        value = loss(x, labels, **kwargs)
        if hasattr(loss, 'set_reweighting'):
            loss.set_reweighting(False)
        value.backward()


def samples(labels):
    return [DataSample().set_gt_label(label) for label in labels]


def contrastive_head(**kwargs):
    neck = dict(type='LinearNeck', in_channels=8, out_channels=16, gap_dim=0, norm_cfg=None, act_cfg=None)
    cfg = dict(type='ContrastiveClsHead', projector=neck, contrast=dict(type='SupConLoss', balanced=True),
               classifier=dict(type='LinearClsHead', num_classes=4, in_channels=8), num_views=3)
    head = build(dict(cfg, **kwargs))
    head.init_weights()
    return head, neck


def test_contrastive_head_splits_the_views():
    head, neck = contrastive_head()
    z, labels = torch.randn(9, 8), [0, 1, 0]
    losses = head.loss((z, ), samples(labels * 3))
    assert set(losses) == {'loss_cls', 'loss_contrast'}
    torch.testing.assert_close(losses['loss_cls'], F.cross_entropy(head((z[:3], )), torch.tensor(labels)))
    g = head.projector((z[3:], ))[-1]
    torch.testing.assert_close(losses['loss_contrast'], head.contrast(g, torch.tensor(labels * 2), 4, 2))
    assert torch.equal(head.classifier_weight, head.classifier.fc.weight)
    assert [s.pred_label.item() for s in head.predict((z, ))] == head((z, )).argmax(1).tolist()

    head, neck = contrastive_head(prototypes=dict(neck), classifier=dict(type='SphericalHead', num_classes=4,
                                                                         in_channels=8, temperature=1 / 30))
    losses = head.loss((z, ), samples(labels * 3))
    g, prototypes = head.projector((z[3:], ))[-1], head.prototypes((head.classifier.classifier_weight, ))[-1]
    torch.testing.assert_close(losses['loss_contrast'], head.contrast(g, torch.tensor(labels * 2), 4, 2, prototypes))
    losses['loss_contrast'].backward()  # class complement: also absent classes move
    assert (head.classifier.weight.grad.norm(dim=1) > 0).all()


def test_contrastive_head_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match='`num_views` of ContrastiveClsHead to be at least 2.*got 1'):
        contrastive_head(num_views=1)
    head, _ = contrastive_head()
    with pytest.raises(ValueError, match='3 views of each image, but got 4 rows.*MultiView'):
        head.loss((torch.randn(4, 8), ), samples([0] * 4))
    soft = [DataSample().set_gt_label(0).set_gt_score(torch.full((4, ), 0.25)) for _ in range(3)]
    with pytest.raises(ValueError, match='integer labels.*mixed_views=1.*batch augmentation'):
        head.loss((torch.randn(3, 8), ), soft)


def test_contrastive_head_takes_soft_labels_of_the_first_view():
    head, _ = contrastive_head(classifier=dict(type='LinearClsHead', num_classes=4, in_channels=8,
                                               loss=dict(type='CrossEntropyLoss', use_soft=True)))
    z, soft = torch.randn(9, 8), torch.tensor([[0.75, 0.25, 0, 0], [0, 1, 0, 0], [0.5, 0, 0, 0.5]])
    rows = samples([0, 1, 0] * 3)
    plain = head.loss((z, ), [r.clone().set_gt_score(F.one_hot(r.gt_label, 4)[0]) if i < 3 else r
                              for i, r in enumerate(rows)])
    mixed = head.loss((z, ), [r.clone().set_gt_score(soft[i]) if i < 3 else r for i, r in enumerate(rows)])
    torch.testing.assert_close(mixed['loss_cls'], F.cross_entropy(head((z[:3], )), soft))
    torch.testing.assert_close(mixed['loss_contrast'], plain['loss_contrast'])
    assert mixed['loss_cls'] != plain['loss_cls']


def test_lws_head_learns_one_factor_a_class():
    head = build(dict(type='LWSHead', num_classes=4, in_channels=8))
    head.init_weights()
    assert [name for name, p in head.named_parameters() if p.requires_grad] == ['scales']
    z = torch.randn(5, 8)
    torch.testing.assert_close(head((z, )), head.fc(z))
    head.scales.data = torch.tensor([1.0, 2.0, 0.5, 3.0])
    expected = torch.stack([s * (z @ w + b) for s, w, b in zip(head.scales, head.fc.weight, head.fc.bias)], 1)
    torch.testing.assert_close(head((z, )), expected)
    torch.testing.assert_close(F.linear(z, *head.predict_map()), expected)


def test_frozen_stages():
    frozen = ResNetCIFAR6n2(20, base_channels=4, frozen_stages=3).train()
    assert not any(p.requires_grad for p in frozen.parameters())
    state = {k: v.clone() for k, v in frozen.state_dict().items()}
    frozen(torch.randn(2, 3, 8, 8))
    assert all(torch.equal(v, state[k]) for k, v in frozen.state_dict().items())  # no statistics either
    partly = ResNetCIFAR6n2(20, base_channels=4, frozen_stages=1).train()
    names = {n.split('.')[0] for n, p in partly.named_parameters() if p.requires_grad}
    assert names == {'layer2', 'layer3'}
    assert not partly.layer1.training and partly.layer2.training
    with pytest.raises(ValueError, match='`frozen_stages`.*from -1.*to 3.*got 4'):
        ResNetCIFAR6n2(20, frozen_stages=4)


METHODS = ('mixup', 'cb', 'focal', 'ldam', 'la', 'glmc', 'bcl', 'supcon', 'proco', 'bbn')


@pytest.mark.parametrize('path', [*(f'{method}/{MINI}' for method in METHODS), 'focal/resnet32_cifar100-lt-if100_cb'])
def test_a_training_step_of_each_config(path):
    """A finite loss, all parameters move, and the trained model predicts."""
    cfg = Config.fromfile(CONFIGS / f'{path}.py')
    model_cfg = cfg.model.to_dict()
    model_cfg['data_preprocessor'] = cfg.data_preprocessor.to_dict()
    num_classes = 100 if 'cifar100' in path else 10
    counts = [500 - 4 * k for k in range(num_classes)]
    model = build(model_cfg, counts)
    model.init_weights()
    for module in model.modules():
        if hasattr(module, 'set_eta'):
            module.set_eta(0.5)  # both branches
    views = getattr(model, 'num_views', getattr(model.head, 'num_views', 1))
    images = [torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8) for _ in range(views)]
    data = dict(inputs=images if views > 1 else images[0], data_samples=samples([0, 1, 0, 2, 3, 3, 9, 1]))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        log = model.train_step(data, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    assert log['loss'].isfinite()
    assert [name for name, p in model.named_parameters() if torch.equal(before[name], p)] == []
    model.eval()
    with torch.no_grad():
        logits = model(torch.randn(2, 3, 16, 16))
    assert logits.shape == (2, num_classes) and logits.isfinite().all()


@pytest.mark.parametrize('method', (*METHODS, 'ce', 'etf', 'allnc', 'gnc'))
def test_an_average_of_the_weights_that_is_older_than_the_class_counts(method):
    """EMAHook copies the model before ClassCountsHook acts, and pairs the buffers of the two in each step."""
    path = next(CONFIGS.glob(f'{method}/*mini-if100.py'), None) or next(CONFIGS.glob(f'{method}/*cifar10*.py'))
    cfg = Config.fromfile(path)
    model = build(cfg.model.to_dict(), counts=None)
    average = ExponentialMovingAverage(model, momentum=0.5)
    for part in model.modules():
        if hasattr(part, 'set_class_counts'):
            part.set_class_counts([500 - 4 * k for k in range(10)])
    for buffer in model.buffers():
        buffer.add_(1)
    average.update_parameters(model)
    pairs = dict(average.module.named_buffers()), dict(model.named_buffers())
    assert pairs[0].keys() == pairs[1].keys() and len(pairs[0]) > 3
    for name, buffer in pairs[1].items():
        assert torch.equal(pairs[0][name], buffer), name


def test_second_stage_takes_trunk_and_classifier_from_the_checkpoint(tmp_path):
    stage1 = Config.fromfile(CONFIGS / f'ce/{MINI}.py')
    first = build(stage1.model.to_dict())
    first.init_weights()
    for value in first.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1)
    torch.save(dict(state_dict=first.state_dict()), tmp_path / 'epoch_160.pth')
    for method in ('crt', 'lws'):
        cfg = Config.fromfile(CONFIGS / f'{method}/{MINI}.py').model.to_dict()
        assert cfg['backbone']['init_cfg']['checkpoint'] == f'work_dirs/ce/{MINI}/epoch_160.pth'
        for part in ('backbone', 'head'):
            if 'init_cfg' in cfg[part]:
                cfg[part]['init_cfg']['checkpoint'] = str(tmp_path / 'epoch_160.pth')
        model = build(cfg)
        model.init_weights()
        for name, value in first.backbone.state_dict().items():
            assert torch.equal(model.backbone.state_dict()[name], value), name
        assert torch.equal(model.head.fc.weight, first.head.fc.weight) == (method == 'lws')
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert trained == ({'head.scales'} if method == 'lws' else {'head.fc.weight', 'head.fc.bias'})
