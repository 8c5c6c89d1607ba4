"""The parts of AllNC in the decode heads of mmseg: built from a config, trained a step, absent at inference."""
import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

import allnc_mm.segmentation  # noqa: F401
from allnc_mm.functional import dot_regression_loss, gbbn_eta
from allnc_mm.registry import MODELS
from allnc_mm.segmentation.losses import BranchLoss
from allnc_mm.segmentation.utils import capture_features, classifier_weight, last_head

K, CHANNELS, SIZE = 5, 8, 32
BN = dict(type='BN')
COUNTS = [1000, 300, 60, 20, 5]


@MODELS.register_module()
class TinyBackbone(nn.Module):
    """Four maps at strides 4, 8, 16, 32."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 4, 1)
        self.stages = nn.ModuleList(nn.Conv2d(4, 4, 3, 2, 1) for _ in range(3))

    def forward(self, x):
        outs = [self.stem(x)]
        for stage in self.stages:
            outs.append(stage(outs[-1]))
        return tuple(outs)


SINGLE = dict(in_channels=4, in_index=1)
MULTIPLE = dict(in_channels=[4] * 4, in_index=[0, 1, 2, 3])
HEADS = {
    'FCNHead': dict(SINGLE, num_convs=1),
    'PSPHead': dict(SINGLE, pool_scales=(1, 2)),
    'ASPPHead': dict(SINGLE, dilations=(1, 2)),
    'DepthwiseSeparableASPPHead': dict(SINGLE, dilations=(1, 2), c1_in_channels=4, c1_channels=4),
    'UPerHead': dict(MULTIPLE, pool_scales=(1, 2)),
    'SegformerHead': dict(MULTIPLE),
    'OCRHead': dict(SINGLE, ocr_channels=4),
}
CE = dict(type='CrossEntropyLoss', avg_non_ignore=True)
GEOMETRY = dict(hycon=dict(type='HyConLoss', positives=['mean'], class_balanced=True), p2p=dict(type='P2PLoss'),
                max_pixels=8)


def build(head='FCNHead', loss=CE, channels=CHANNELS, head_cfg=None, **parts):
    torch.manual_seed(0)
    kind = 'AllNCSegmentor'
    cfg = dict(dict(type=head, channels=channels, num_classes=K, norm_cfg=BN, loss_decode=loss, **HEADS[head]),
               **(head_cfg or {}))
    extra = {}
    if head == 'OCRHead':
        kind, extra = 'AllNCCascadeSegmentor', dict(num_stages=2)
        cfg = [dict(cfg, type='FCNHead', num_convs=1, loss_decode=CE), cfg]
        del cfg[0]['ocr_channels']
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(dict(type=kind, backbone=dict(type='TinyBackbone'), decode_head=cfg, train_cfg=dict(),
                                  test_cfg=ConfigDict(mode='whole'), **extra, **parts))
    model.init_weights()
    for module in model.modules():
        if hasattr(module, 'set_class_counts'):
            module.set_class_counts(COUNTS)
    return model


def batch(num=2, labels=None, size=SIZE):
    generator = torch.Generator().manual_seed(1)
    if labels is None:
        labels = torch.randint(0, K, (num, size // 8, size // 8), generator=generator)
        labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
        labels[:, :3] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=y[None]), metainfo=dict(
        ori_shape=y.shape, img_shape=y.shape, pad_shape=y.shape)) for y in labels]
    return torch.randn(len(labels), 3, *labels.shape[1:], generator=generator), samples


def total(losses):
    return sum(v.sum() for k, v in losses.items() if 'loss' in k)


def step(model, inputs, samples):
    model.train()
    losses = model.loss(inputs, samples)
    total(losses).backward()
    assert all(v.isfinite().all() for k, v in losses.items() if 'loss' in k)
    grads = {name: p.grad for name, p in model.named_parameters() if 'backbone.stages' not in name}  # not all are read
    assert all(g is None or g.isfinite().all() for g in grads.values())
    return losses, grads


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('loss', [CE, dict(type='DotRegressionSegLoss')], ids=['ce', 'dr'])
def test_fixed_classifier_in_every_head(head, loss):
    model = build(head, loss, classifier=dict(length=8.0))
    fixed = last_head(model).conv_seg
    code = fixed.code.clone()
    torch.testing.assert_close(code @ code.T, (K * torch.eye(K) - 1) / (K - 1))  # a simplex, after init_weights
    assert not list(fixed.parameters(recurse=False)) and torch.equal(fixed.norm.weight, torch.ones(CHANNELS))
    losses, grads = step(model, *batch())
    assert any(k.endswith(loss.get('loss_name', 'loss_ce' if loss is CE else 'loss_dr')) for k in losses)
    missing = [name for name, g in grads.items() if g is None]
    assert not missing, missing  # an unused parameter would stop DistributedDataParallel
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert torch.equal(fixed.code, code)
    model.eval()
    inputs, samples = batch()
    with torch.no_grad(), capture_features(model) as captured:
        logits = model(inputs, mode='tensor')
    cosine = F.normalize(captured.features.movedim(1, -1).double(), dim=-1) @ code.double().T
    torch.testing.assert_close(logits.double(), 8 * cosine.movedim(-1, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('head', HEADS)
def test_all_parts_in_every_head(head):
    model = build(head, loss_rebalanced=dict(type='LogitAdjustedSegLoss'), bilateral=True, view=dict(),
                  geometry=dict(GEOMETRY, proj_channels=6, predictor=True,
                                hycon=dict(type='HyConLoss', class_balanced=True)),
                  center=dict(channels=6, embed_dims=12))
    losses, grads = step(model, *batch(num=4))
    names = {k.split('.')[-1] for k in losses}
    assert {'loss_ce', 'loss_rebalanced', 'loss_hycon', 'loss_p2p', 'loss_center', 'gbbn_eta'} <= names
    assert all(g is not None for g in grads.values())


def test_left_out_parts_are_a_stock_segmentor():
    ours, inputs = build(), batch()
    with DefaultScope.overwrite_default_scope('mmseg'):
        stock = MODELS.build(dict(type='EncoderDecoder', backbone=dict(type='TinyBackbone'), decode_head=dict(
            type='FCNHead', channels=CHANNELS, num_classes=K, norm_cfg=BN, loss_decode=CE, **HEADS['FCNHead']),
            train_cfg=dict(), test_cfg=ConfigDict(mode='whole')))
    stock.load_state_dict(ours.state_dict())  # strict
    ours.eval(), stock.eval()
    assert all(torch.equal(a, b) for a, b in zip(ours.loss(*inputs).values(), stock.loss(*inputs).values()))


def test_inference_runs_the_plain_head():
    plain = build()
    full = build(loss_rebalanced=CE, geometry=GEOMETRY, center=dict(channels=6, embed_dims=12), view=dict())
    assert not full.load_state_dict(plain.state_dict(), strict=False).unexpected_keys

    def modules_run(model):
        ran, handles = [], []
        for name, module in model.named_modules():
            handles.append(module.register_forward_hook(lambda m, a, o, name=name: ran.append(name)))
        model.eval()
        with torch.no_grad():
            result = model.predict(*batch())
        for handle in handles:
            handle.remove()
        return ran, torch.stack([r.seg_logits.data for r in result])

    (ran, logits), (ran_full, logits_full) = modules_run(plain), modules_run(full)
    assert ran == ran_full and torch.equal(logits, logits_full)
    assert not last_head(full).dropout._forward_pre_hooks  # nothing stays behind from training


def test_model_is_copied_and_pickled():
    model = build(classifier=dict(), loss_rebalanced=CE, geometry=GEOMETRY)
    step(model, *batch())
    clone = copy.deepcopy(model)  # EMAHook does so
    pickle.loads(pickle.dumps(model.state_dict()))
    clone.decode_head.conv_seg.norm.weight.data.zero_()
    assert model.decode_head.conv_seg.norm.weight.abs().sum() > 0
    fresh = build(classifier=dict(seed=3), loss_rebalanced=CE, geometry=GEOMETRY)
    fresh.load_state_dict(model.state_dict())  # the code and the moving means are in it
    assert torch.equal(fresh.decode_head.conv_seg.code, model.decode_head.conv_seg.code)
    assert torch.equal(fresh.geometry.p2p_means.sums, model.geometry.p2p_means.sums)


def test_dot_regression_is_that_of_features():
    model = build(loss=dict(type='DotRegressionSegLoss', loss_weight=3.0), classifier=dict(length=5.0),
                  head_cfg=dict(in_index=0, dropout_ratio=0))
    inputs, samples = batch(labels=torch.tensor([[[0, 1], [255, 4]]]).repeat_interleave(4, 1).repeat_interleave(4, 2))
    small = torch.tensor([[0, 1], [255, 4]])
    # labels at the resolution of the features: no interpolation
    samples[0].gt_sem_seg = PixelData(data=small[None])
    with capture_features(model) as captured:
        loss = model.loss(inputs, samples)['decode.loss_dr']
    features = captured.features[0].flatten(1).T[small.flatten() != 255]
    expected = dot_regression_loss(features.double(), small[small != 255], classifier_weight(model).double())
    torch.testing.assert_close(loss.double(), 3 * expected, atol=1e-5, rtol=1e-5)


def test_zero_features_have_bounded_gradients():
    fixed = MODELS.build(dict(type='FixedClassifier', num_classes=3, in_channels=4))
    x = torch.zeros(1, 4, 2, 2, requires_grad=True)
    out = fixed(x)
    out.square().sum().backward()
    fixed(x)[:, 0].sum().backward()
    assert torch.equal(out, torch.zeros_like(out)) and x.grad.abs().max() <= 16
    half = fixed(torch.randn(1, 4, 2, 2).bfloat16())
    assert half.dtype == torch.float32


@pytest.mark.parametrize('rebalanced', [False, True])
def test_branch_sees_its_half_of_every_view(rebalanced):
    seen = {}

    class Spy(nn.Module):
        loss_name = 'loss_spy'

        def forward(self, logits, label, weight=None, ignore_index=None):
            seen.update(logits=logits.flatten().tolist(), label=label.flatten().tolist(), ignore_index=ignore_index)
            return logits.sum()

    loss = BranchLoss(Spy(), rebalanced, bilateral=True, num_views=2)
    loss.set_eta(gbbn_eta(0.5))
    # views v, halves h, images i: value 100 v + 10 h + i
    rows = torch.tensor([100 * v + 10 * h + i for v in range(2) for h in range(2) for i in range(3)])
    value = loss(rows.float().view(-1, 1, 1, 1), rows.view(-1, 1, 1), ignore_index=7)
    kept = [r for r in rows.tolist() if r % 100 // 10 == int(rebalanced)]
    assert seen == dict(logits=kept, label=kept, ignore_index=7)
    assert value.item() == pytest.approx(sum(kept) * (0.25 if rebalanced else 0.75))
    assert loss.loss_name == ('loss_rebalanced' if rebalanced else 'loss_spy')


def test_bilateral_losses_are_those_of_the_halves():
    model = build(loss_rebalanced=dict(type='LogitAdjustedSegLoss', tau=1.0), bilateral=True,
                  head_cfg=dict(dropout_ratio=0))
    inputs, samples = batch(num=4)
    for branch in model.decode_head.loss_decode:
        branch.set_eta(0.75)
    losses = model.loss(inputs, samples)
    logits = F.interpolate(model(inputs, mode='tensor'), SIZE, mode='bilinear').double()
    labels = torch.stack([s.gt_sem_seg.data[0] for s in samples])
    prior = (torch.tensor(COUNTS).double() / sum(COUNTS)).log()
    first = F.cross_entropy(logits[:2], labels[:2], ignore_index=255)
    second = F.cross_entropy(logits[2:] + prior[:, None, None], labels[2:], ignore_index=255)
    torch.testing.assert_close(losses['decode.loss_ce'].double(), 0.75 * first, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses['decode.loss_rebalanced'].double(), 0.25 * second, atol=1e-5, rtol=1e-5)
    # GBBNHook tells each branch what its half of the batch looks like
    model.set_sampling_priors([0.6, 0.1, 0.1, 0.1, 0.1], [0.2] * 5)
    losses = model.loss(inputs, samples)
    torch.testing.assert_close(losses['decode.loss_rebalanced'].double(),
                               0.25 * F.cross_entropy(logits[2:], labels[2:], ignore_index=255), atol=1e-5, rtol=1e-5)


def test_shared_branches_see_both_halves():
    model = build(loss_rebalanced=dict(type='LogitAdjustedSegLoss', tau=1.0), bilateral=True, shared=True,
                  head_cfg=dict(dropout_ratio=0))
    for branch in model.decode_head.loss_decode:
        branch.set_eta(0.75)
    natural, partner = [0.6, 0.1, 0.1, 0.1, 0.1], [0.2, 0.3, 0.1, 0.3, 0.1]
    model.set_sampling_priors(natural, partner)
    inputs, samples = batch(num=4)
    losses = model.loss(inputs, samples)
    logits = F.interpolate(model(inputs, mode='tensor'), SIZE, mode='bilinear').double()
    labels = torch.stack([s.gt_sem_seg.data[0] for s in samples])
    prior = (torch.tensor([natural, partner]).double().mean(0)).log()
    first = F.cross_entropy(logits, labels, ignore_index=255)
    second = F.cross_entropy(logits + prior[:, None, None], labels, ignore_index=255)
    torch.testing.assert_close(losses['decode.loss_ce'].double(), 0.75 * first, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses['decode.loss_rebalanced'].double(), 0.25 * second, atol=1e-5, rtol=1e-5)


def test_features_before_dropout():
    model = build(head_cfg=dict(dropout_ratio=0.9))
    torch.nn.init.constant_(model.decode_head.convs[0].bn.bias, 1.0)
    with capture_features(model) as captured:
        model.train().loss(*batch())
    assert (captured.features.flatten(2).sum(2) > 0).all()  # Dropout2d would have zeroed most channels
    assert classifier_weight(model).shape == (K, CHANNELS)


EVERYTHING = dict(classifier=dict(), loss_rebalanced=dict(type='LogitAdjustedSegLoss'), view=dict(),
                  geometry=dict(GEOMETRY, hycon=dict(type='HyConLoss', negatives=True,
                                                     positives=['view', 'class', 'mean'])),
                  center=dict(channels=6, embed_dims=12))


@pytest.mark.parametrize('value', [255, 3, -1, 77])
def test_no_labelled_pixel_or_one_class(value):
    """255: none has a class; 3: all but one are absent; -1 and 77 are no classes: data-side checks refuse them."""
    loss = dict(type='LogitAdjustedSegLoss', tau=0.0)
    model = build(loss=loss, **EVERYTHING)
    losses, _ = step(model, *batch(labels=torch.full((2, SIZE, SIZE), value)))
    if value != 3:
        assert losses['decode.loss_ce'] == 0 and losses['loss_hycon'] == 0 and losses['center.loss_center'] == 0
        assert losses['decode.loss_rebalanced'] == 0


def test_autocast():
    model = build(**EVERYTHING)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses, _ = step(model, *batch())
    assert losses['loss_hycon'].dtype == losses['loss_p2p'].dtype == torch.float32


def test_photometric_view():
    torch.manual_seed(0)
    view = MODELS.build(dict(type='PhotometricView'))
    x = torch.randn(3, 3, 8, 8)
    y = view(x)
    assert y.shape == x.shape and (y - x).abs().amax((1, 2, 3)).min() > 1e-3
    gray = torch.randn(2, 1, 8, 8).expand(2, 3, 8, 8)
    off = MODELS.build(dict(type='PhotometricView', brightness=0, contrast=0, saturation=0.5))
    torch.testing.assert_close(off(gray), gray)  # gray has no saturation
    # each image is a map of its colours: equal pixels stay equal
    x[:, :, 0, 0] = x[:, :, 5, 5]
    y = view(x)
    torch.testing.assert_close(y[:, :, 0, 0], y[:, :, 5, 5])
    with pytest.raises(ValueError, match='contrast'):
        MODELS.build(dict(type='PhotometricView', contrast=1.0))


@pytest.mark.parametrize('parts, message', [
    (dict(bilateral=True), 'loss_rebalanced'),
    (dict(loss_rebalanced=CE, shared=True), 'set bilateral=True'),
    (dict(loss=dict(type='DotRegressionSegLoss'), loss_rebalanced=CE), "classifier=dict.type='FixedClassifier'"),
    (dict(loss=dict(type='DotRegressionSegLoss'), classifier=dict(learnable_length=True)), 'learnable_length=False'),
    (dict(geometry=dict()), '`hycon`, `p2p` or both'),
    (dict(geometry=dict(p2p=dict(type='P2PLoss'), predictor=True)), 'serve HyCon alone'),
    (dict(geometry=dict(GEOMETRY, max_pixels=0)), 'max_pixels'),
    (dict(geometry=dict(hycon=dict(type='HyConLoss', positives=['view']))), 'second view'),
    (dict(classifier=dict(geometry='cube')), 'geometry'),
    (dict(classifier=dict(length=0)), 'length'),
    (dict(classifier=dict(), channels=3), "geometry='softmax_code'"),
    (dict(geometry=GEOMETRY, channels=3), "target='softmax_code' or 'hinge'"),
    (dict(center=dict(embed_dims=2)), 'embed_dims'),
    (dict(center=dict(scale=0)), 'scale'),
    (dict(center=dict(num_classes=7)), 'num_classes of CenterCollapseHead is 7, but that of the decode head is 5'),
    (dict(classifier=dict(num_classes=7)), 'num_classes of FixedClassifier is 7'),
    (dict(geometry=dict(GEOMETRY, in_channels=7)), 'in_channels of PixelGeometry is 7'),
    (dict(head_cfg=dict(sampler=dict(type='OHEMPixelSampler')), loss_rebalanced=CE, bilateral=True), 'sampler.thresh'),
])
def test_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        build(**parts)


def test_documented_arguments_of_the_parts():
    model = build(geometry=dict(GEOMETRY, num_classes=K, ignore_index=3), center=dict(align_corners=True),
                  classifier=dict(norm_cfg=None))
    assert model.geometry.ignore_index == 3 and model.center.align_corners
    assert not hasattr(model.decode_head.conv_seg, 'norm') or model.decode_head.conv_seg.norm is None


@pytest.mark.parametrize('thresh', [None, 0.7])
@pytest.mark.parametrize('loss, parts', [
    (dict(type='LogitAdjustedSegLoss'), dict()),
    (dict(type='DotRegressionSegLoss'), dict(classifier=dict())),
], ids=['la', 'dr'])
def test_hard_pixels(loss, parts, thresh):
    """mmseg's OHEMPixelSampler, which without a threshold keeps the pixels of the largest losses."""
    model = build(loss=loss, head_cfg=dict(sampler=dict(type='OHEMPixelSampler', thresh=thresh, min_kept=50)), **parts)
    if thresh is None:
        logits, labels = torch.randn(2, K, SIZE, SIZE), torch.stack([s.gt_sem_seg.data for s in batch()[1]])
        each = model.decode_head.loss_decode(logits, labels[:, 0], reduction_override='none')
        kept = model.decode_head.sampler.sample(logits, labels) > 0
        assert kept.sum() == 50 * len(labels) and each[kept].min() >= each[~kept & (labels[:, 0] != 255)].max()
    step(model, *batch())


def test_refused_heads():
    with pytest.raises(ValueError, match='out_channels=2'):
        build(head_cfg=dict(num_classes=2, out_channels=1), geometry=GEOMETRY)
    with pytest.raises(ValueError, match='has no `conv_seg`'):
        last_head(nn.Linear(1, 1))
    model = build(loss_rebalanced=CE)
    model.decode_head.loss_by_feat = lambda logits, samples: dict(loss_own=logits.sum())
    with pytest.raises(ValueError, match='did not call the loss of the second branch'):
        model.loss(*batch())
    with pytest.raises(ValueError, match='RareClassSampler'):
        build(loss_rebalanced=CE, bilateral=True).loss(*batch(num=1))
    with pytest.raises(RuntimeError, match="classifier=dict.type='FixedClassifier'"):
        MODELS.build(dict(type='DotRegressionSegLoss'))(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1).long())
    saved = build(classifier=dict()).state_dict()
    with pytest.raises(ValueError, match='set num_classes and channels'):
        build(classifier=dict(), channels=6).load_state_dict(saved)


def test_softmax_code_geometry():
    model = build(classifier=dict(geometry='softmax_code'), channels=3)
    code = classifier_weight(model)
    assert code.shape == (K, 3)
    torch.testing.assert_close(code.norm(dim=1), torch.ones(K))
    step(model, *batch())


def test_learnable_length():
    model = build(classifier=dict(learnable_length=True))
    _, grads = step(model, *batch())
    assert grads['decode_head.conv_seg.log_length'].abs() > 0
