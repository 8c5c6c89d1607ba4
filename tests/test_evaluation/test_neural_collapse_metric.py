import math
import os

import pytest
import torch
import torch.multiprocessing
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from torch import nn

import allnc_mm  # noqa: F401
from allnc_mm.evaluation import NeuralCollapseMetric
from allnc_mm.evaluation.last_layer import LastLayer, linear_map
from allnc_mm.functional.collapse import ClassStatistics, SecondPass, collapse_measures
from allnc_mm.functional.geometry import unit_rows
from allnc_mm.registry import MODELS

COUNTS = [30, 17, 6, 2]
NUM, DIM = sum(COUNTS), 5


class Model(nn.Module):
    """A classifier whose images are the neck's output already; it counts its forward passes."""

    def __init__(self, **head):
        super().__init__()
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            self.head = MODELS.build(dict(dict(type='LinearClsHead', num_classes=4, in_channels=DIM), **head))
        for parameter in self.head.parameters():
            nn.init.normal_(parameter)
        self.forward_passes = 0
        self.head.register_forward_hook(self.count)

    def count(self, *args):
        self.forward_passes += 1

    def predict(self, features, labels):
        return self.head.predict((features, ), [DataSample().set_gt_label(label) for label in labels])


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))[torch.randperm(NUM, generator=generator)]
    return 3 + torch.randn(4, DIM, generator=generator)[labels] + torch.randn(NUM, DIM, generator=generator), labels


@torch.no_grad()
def evaluate(model, features, labels, indices=None, second=True, meta=None, **kwargs):
    evaluator = Evaluator(dict(type='NeuralCollapseMetric', **kwargs))
    evaluator.dataset_meta = meta
    metric = evaluator.metrics[0]
    model.eval()
    metric.attach(model)
    indices = torch.arange(len(labels)) if indices is None else indices
    for again in range(1 + second):
        if again:
            metric.second_pass(len(labels))
        for batch in indices.split(12):
            evaluator.process(model.predict(features[batch], labels[batch]))
    values = evaluator.evaluate(len(labels))
    metric.detach()
    return {name.removeprefix('neural_collapse/'): value for name, value in values.items()}, metric


def expected(features, labels, weight, bias=None, **kwargs):
    stats, units = ClassStatistics(4, features.size(1)), ClassStatistics(4, features.size(1))
    stats.update(features, labels)
    kept = features.norm(dim=1) > 0
    units.update(unit_rows(features[kept].double()), labels[kept])
    second = SecondPass(stats, weight, bias)
    second.update(features, labels)
    return collapse_measures(stats, weight, second=second, unit_stats=units, **kwargs)[0]


def assert_same(found, wanted, tolerance=1e-9):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=tolerance, abs=tolerance, nan_ok=True), name


HEADS = {
    'linear': dict(),
    'stacked': dict(type='StackedLinearClsHead', mid_channels=[7]),
    'vision transformer': dict(type='VisionTransformerClsHead', hidden_dim=6),
    'allnc': dict(type='AllNCHead', share_classifier=False, predict_head='mean'),
}


@pytest.mark.parametrize('head', HEADS.values(), ids=HEADS)
def test_equals_the_functions_on_the_whole_set(head):
    model = Model(**head)
    features, labels = data()
    features[5] = 0  # a sample without a direction
    values, metric = evaluate(model, features, labels, groups=(1, 2, 1), meta=dict(num_per_class=COUNTS[::-1]))
    with torch.no_grad():
        inputs = model.head.pre_logits((features, ))
    groups = dict(many=[0], medium=[1, 2], few=[3])
    wanted = expected(inputs, labels, *linear_map(model.head), num_per_class=COUNTS[::-1], groups=groups)
    assert_same(values, wanted, 1e-6)
    assert model.forward_passes == 2 * math.ceil(NUM / 12)  # nothing is computed twice but for the second pass
    assert not model.head._forward_pre_hooks
    assert set(metric.reasons) == {name for name, value in values.items() if math.isnan(value)}
    agreement = (inputs.double() @ linear_map(model.head)[0].double().T + linear_map(model.head)[1]).argmax(1)
    means = torch.stack([inputs[labels == k].double().mean(0) for k in range(4)])
    nearest = torch.cdist(inputs.double(), means).argmin(1)
    assert values['nc4_agreement'] == pytest.approx(float((agreement == nearest).double().mean()))


COSINE = {
    'spherical': dict(type='SphericalHead'),
    'etf': dict(type='ETFHead', norm_cfg=dict(type='BN1d')),
    'arcface': dict(type='ArcFaceClsHead'),
}


@pytest.mark.parametrize('head', COSINE.values(), ids=COSINE)
def test_cosine_classifiers_read_directions(head):
    model = Model(**head)
    features, labels = data()
    values, _ = evaluate(model, features, labels)
    with torch.no_grad():
        units = unit_rows(model.head.pre_logits((features, )))
    weight = linear_map(model.head)[0]
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(4))
    assert_same(values, expected(units, labels, weight), 1e-5)
    assert values['nc1'] == pytest.approx(values['gnc1'], rel=1e-5)


def test_a_head_without_classifier():
    model = Model(type='ArcFaceClsHead', num_subcenters=2)
    features, labels = data()
    values, metric = evaluate(model, features, labels)
    assert math.isnan(values['nc3']) and math.isnan(values['nc4_agreement']) and math.isnan(values['gnc2'])
    assert 'weights of shape (8, 5), not one vector a class' in metric.reasons['nc3']
    assert values['nc1'] > 0 and values['ncc_accuracy'] > .3 and values['nc2_etf_distance_means'] > 0


def test_models_without_a_head_are_watched_at_their_linear_layer():
    model = nn.Sequential(nn.Linear(DIM, 3), nn.ReLU())
    layer = LastLayer(model)
    x = torch.randn(2, DIM)
    model(x)
    assert torch.equal(layer.features(), x) and layer.linear_map()[0] is model[0].weight
    layer.close()
    model(x)
    with pytest.raises(ValueError, match='did not call the Linear'):
        layer.features()


def test_undefined_has_a_reason_and_gnc_is_optional():
    features, labels = data()
    values, metric = evaluate(Model(), features, labels, second=False, gnc=False)
    assert math.isnan(values['nc4_agreement']) and metric.reasons['gnc1'] == 'no statistics of normalised features'
    assert metric.reasons['nc4_agreement'] == 'needs a second pass over the samples'
    values, metric = evaluate(Model(), features[labels == 1], labels[labels == 1])
    assert math.isnan(values['nc1']) and values['num_present'] == 1
    assert metric.reasons['nc1'] == '1 of 4 classes have samples, and two are needed'


def test_bad_input():
    features, labels = data()
    with pytest.raises(ValueError, match=r"add custom_hooks=\[dict\(type='NeuralCollapseHook'\)\]"):
        NeuralCollapseMetric().process(None, [])
    model = Model()
    metric = NeuralCollapseMetric()
    metric.attach(model)
    with pytest.raises(ValueError, match='nothing was evaluated'):
        metric.evaluate(3)
    model.predict(features[:2], labels[:2])
    with pytest.raises(ValueError, match='no gt_label'):
        metric.process(None, [dict(), dict()])
    model.predict(features[:2], labels[:2])
    with pytest.raises(ValueError, match='has 1 images, 1 labels and 2 vectors'):
        metric.process(None, [dict(gt_label=torch.tensor([0]))])
    model.head = nn.Identity()
    model.head.pre_logits = model.head.forward
    metric.attach(model)
    model.head(torch.ones(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r'has shape \(2, 3, 4, 4\).*add a neck'):
        metric.process(None, [dict(gt_label=torch.tensor([0]))])


def run_rank(rank, folder):
    os.chdir(folder)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Model()
    features, labels = data()
    sampler = DefaultSampler(labels, shuffle=False)
    assert len(sampler) * 2 == NUM + 1  # one duplicate fills the last batch
    values, _ = evaluate(model, features, labels, torch.tensor(list(sampler)))
    torch.save(values, f'{folder}/values{rank}.pth')
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    torch.manual_seed(0)
    model = Model()
    wanted, _ = evaluate(model, *data())
    torch.multiprocessing.spawn(run_rank, args=(str(tmp_path), ), nprocs=2)
    for rank in range(2):
        assert_same(torch.load(tmp_path / f'values{rank}.pth'), wanted, 1e-10)
