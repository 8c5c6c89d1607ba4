import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample

from allnc_mm.models import BBN, BBNHead, ResNetCIFAR6n2
from allnc_mm.registry import MODELS


@pytest.fixture(autouse=True)
def scope():
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def config(**kwargs):
    cfg = dict(
        type='BBN',
        backbone=dict(type='ResNetCIFAR6n2', depth=20, base_channels=4),
        head=dict(type='BBNHead', num_classes=5, in_channels=16),
        data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3))
    cfg.update(kwargs)
    return cfg


def build(**kwargs):
    model = MODELS.build(config(**kwargs))
    model.init_weights()
    return model


def samples(labels):
    return [DataSample().set_gt_label(label) for label in labels]


LABELS = [0, 0, 1, 2, 4, 4, 3, 1]  # uniform half, re-balanced half


def test_the_last_block_exists_twice():
    model, plain = build(), ResNetCIFAR6n2(20, base_channels=4)
    assert len(model.backbone.layer3) == len(plain.layer3) - 1
    size = sum(p.numel() for p in plain.layer3[-1].parameters())
    count = sum(p.numel() for m in (model.backbone, model.cb_block, model.rb_block) for p in m.parameters())
    assert count == sum(p.numel() for p in plain.parameters()) + size
    assert model.head.fc.weight.shape == (5, 32)


def test_branches_are_initialised_like_the_backbone_but_independently():
    model = build(backbone=dict(type='ResNetCIFAR6n2', depth=20, base_channels=16),
                  head=dict(type='BBNHead', num_classes=5, in_channels=64))
    for block in (model.cb_block, model.rb_block):
        assert block.conv1.weight.std().item() == pytest.approx((2 / (64 * 9))**0.5, rel=0.05)  # Kaiming, fan in
    assert not torch.allclose(model.cb_block.conv1.weight, model.rb_block.conv1.weight)


@pytest.mark.parametrize('eta', [0.0, 0.3, 1.0])
def test_loss_against_the_formula(eta):
    model = build()
    model.head.set_eta(eta)
    x = torch.rand(8, 3, 16, 16)
    model.head.fc.weight.data.normal_()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    losses = model.loss(x, samples(LABELS))

    model.load_state_dict(state)
    trunk = model.backbone(x)[0]  # statistics of the whole batch
    uniform = model.cb_block(trunk[:4]).mean(dim=(2, 3))
    rebalanced = model.rb_block(trunk[4:]).mean(dim=(2, 3))
    logits = model.head.fc(torch.cat([2 * eta * uniform, 2 * (1 - eta) * rebalanced], dim=1))
    log_prob = logits.log_softmax(dim=1)
    first = -sum(log_prob[i, LABELS[i]] for i in range(4)) / 4
    second = -sum(log_prob[i, LABELS[4 + i]] for i in range(4)) / 4
    assert list(losses) == ['loss_uniform', 'loss_rebalanced', 'gbbn_eta']
    torch.testing.assert_close(losses['loss_uniform'], eta * first)
    torch.testing.assert_close(losses['loss_rebalanced'], (1 - eta) * second)
    assert losses['gbbn_eta'].item() == pytest.approx(eta)


def test_one_pass_of_the_trunk_and_half_a_batch_for_each_branch():
    model = build()
    sizes = {}
    for name in ('backbone', 'cb_block', 'rb_block', 'head.fc'):
        model.get_submodule(name).register_forward_hook(
            lambda m, args, out, name=name: sizes.setdefault(name, []).append(len(args[0])))
    model.loss(torch.rand(8, 3, 16, 16), samples(LABELS))
    assert sizes == {'backbone': [8], 'cb_block': [4], 'rb_block': [4], 'head.fc': [4]}


@pytest.mark.parametrize('eta, silent', [(1.0, 'rb_block'), (0.0, 'cb_block')])
def test_eta_at_its_ends_trains_one_branch_only(eta, silent):
    model = build()
    model.head.set_eta(eta)
    sum(v for k, v in model.loss(torch.rand(8, 3, 16, 16), samples(LABELS)).items() if 'loss' in k).backward()
    other = dict(rb_block='cb_block', cb_block='rb_block')[silent]
    assert all(p.grad.abs().sum() == 0 for p in getattr(model, silent).parameters())
    assert all(p.grad.abs().sum() > 0 for p in getattr(model, other).parameters())


def test_inference_passes_both_branches_unscaled():
    model = build().eval()
    model.head.set_eta(0.1)  # must not matter
    x = torch.rand(3, 3, 16, 16)
    trunk = model.backbone(x)[0]
    features = torch.cat([model.cb_block(trunk).mean(dim=(2, 3)), model.rb_block(trunk).mean(dim=(2, 3))], dim=1)
    torch.testing.assert_close(model.extract_feat(x)[-1], features)
    torch.testing.assert_close(model.extract_feat(x, stage='pre_logits'), features)
    assert model.extract_feat(x, stage='backbone')[0].shape == (3, 32, 4, 4)
    logits = model.head.fc(features)
    torch.testing.assert_close(model(x), logits)
    predictions = model(x, mode='predict')
    torch.testing.assert_close(torch.stack([p.pred_score for p in predictions]), logits.softmax(dim=1))
    with pytest.raises(ValueError, match="`stage` to be one of .* but got 'logits'"):
        model.extract_feat(x, stage='logits')


def test_half_weight_in_training_has_the_scale_of_inference():
    model = build().eval()  # running statistics, so that both paths see the same features
    model.head.set_eta(0.5)
    x = torch.rand(4, 3, 16, 16)
    seen = []
    model.head.fc.register_forward_hook(lambda m, args, out: seen.append(out))
    model.loss(torch.cat([x, x]), samples(LABELS))
    torch.testing.assert_close(seen[0], model(x))


def test_optimisation_step_from_data():
    model = build(head=dict(type='BBNHead', num_classes=5, in_channels=16, cal_acc=True))
    model.head.set_eta(0.6)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    data = dict(inputs=[torch.randint(256, (3, 16, 16), dtype=torch.uint8) for _ in range(8)],
                data_samples=samples(LABELS))
    log = model.train_step(data, wrapper)
    assert log['loss'].item() == pytest.approx((log['loss_uniform'] + log['loss_rebalanced']).item())
    assert 0 <= log['accuracy_top-1'].item() <= 100
    assert [name for name, p in model.named_parameters() if torch.equal(before[name], p)] == []
    assert len(model.eval().test_step(data)) == 8


def test_a_loss_keeps_its_eta_when_the_hook_sets_the_next():
    head, features = BBNHead(5, 16), torch.rand(4, 32, requires_grad=True)
    head.set_eta(0.6)
    losses = head.loss((features, ), samples(LABELS))
    head.set_eta(0.0)
    (losses['loss_uniform'] + losses['loss_rebalanced']).backward()
    assert losses['gbbn_eta'].item() == pytest.approx(0.6)
    assert features.grad[:, :16].abs().sum() > 0


def test_accuracy_is_weighted_by_eta():
    head = BBNHead(2, 1, cal_acc=True)
    head.fc.weight.data = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    head.set_eta(0.75)
    losses = head.loss((torch.ones(2, 2), ), samples([0, 0, 1, 0]))  # predicts class 0 always
    assert [value.item() for value in losses['accuracy_top-1']] == [pytest.approx(0.75 * 100 + 0.25 * 50)]


def test_bfloat16_computes_the_loss_in_float32():
    model, seen = build(), []
    model.head.loss_module.register_forward_pre_hook(lambda m, args: seen.append(args[0].dtype))
    with torch.autocast('cpu', torch.bfloat16):
        losses = model.loss(torch.rand(8, 3, 16, 16), samples(LABELS))
    assert seen == [torch.float32] * 2
    assert losses['loss_uniform'].dtype == torch.float32 and losses['loss_uniform'].isfinite()


def test_state_dict_round_trip_without_eta():
    source, target = build(), build()
    source.head.set_eta(0.2)
    source.loss(torch.rand(8, 3, 16, 16), samples(LABELS))
    assert not any('eta' in key.split('.') for key in source.state_dict())
    target.load_state_dict(source.state_dict(), strict=True)
    assert target.head.eta == 1
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(source.eval()(x), target.eval()(x))


def test_set_eta_fills_in_place():
    head = BBNHead(5, 16)
    buffer = head.eta
    head.set_eta(0.25)
    assert head.eta is buffer and buffer.item() == 0.25 and buffer.ndim == 0
    for eta in (-0.1, 1.1, float('nan')):
        with pytest.raises(ValueError, match=r'`eta` of BBNHead.set_eta to be in \[0, 1\], but got'):
            head.set_eta(eta)


def test_mmpretrain_resnet_as_backbone():
    model = build(
        backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
        head=dict(type='BBNHead', num_classes=5, in_channels=64))
    assert len(model.backbone.layer4) == 1
    losses = model.loss(torch.rand(4, 3, 32, 32), samples([0, 1, 2, 3]))
    assert losses['loss_uniform'].isfinite()


def test_bad_settings():
    backbone = config()['backbone']
    shallow = ResNetCIFAR6n2(20, base_channels=4)
    del shallow.layer3[1:]
    with pytest.raises(ValueError, match='last stage has 1 block; use a deeper one'):
        build(backbone=shallow)
    with pytest.raises(ValueError, match=r'out_indices=\(1,\); it must contain 2'):
        build(backbone=dict(backbone, out_indices=(1, )))
    with pytest.raises(ValueError, match="backbone.init_cfg is 'Pretrained'.*Remove it"):
        build(backbone=dict(backbone, init_cfg=dict(type='Pretrained', checkpoint='resnet.pth')))
    with pytest.raises(TypeError, match='VGG has no `res_layers`; use ResNetCIFAR6n2'):
        build(backbone=dict(type='VGG', depth=11))
    for head in (dict(type='LinearClsHead', num_classes=5, in_channels=32), None):
        with pytest.raises(TypeError, match="BBN needs head=dict.type='BBNHead'"):
            build(head=head)


def test_bad_batches():
    model = build()
    with pytest.raises(ValueError, match='two equal halves .* but got 7 images; set train_dataloader.batch_sampler'):
        model.loss(torch.rand(7, 3, 16, 16), samples(LABELS[:7]))
    with pytest.raises(ValueError, match="needs 2 annotations .* but got 4 for 4 rows; .*type='BBN'"):
        model.head.loss((torch.rand(4, 32), ), samples(LABELS[:4]))
    assert isinstance(model, BBN)
