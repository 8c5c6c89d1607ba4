"""Two gloo processes with half the batch each give the losses and gradients of one process with all of it."""
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from torch import nn

from allnc_mm.distributed import gather, gather_views, world_size
from allnc_mm.registry import MODELS

K, DIM, RANKS = 5, 6, 2
COUNTS = [50, 20, 10, 4, 2]
# [natural | re-balanced]; each rank has half of each. Class 0 is on the first rank only, 4 on the second, 2 on none.
LABELS = torch.tensor([0, 0, 1, 4, 3, 1, 4, 3])
PARTS = [[0, 1, 4, 5], [2, 3, 6, 7]]
STEPS = 3

HYCON, P2P = dict(type='HyConLoss'), dict(type='P2PLoss')
CONTRAST = dict(HYCON, negatives=True, positives=['view', 'class', 'mean'])


@MODELS.register_module()
class PlainProjector(nn.Sequential):
    """Linear layers without batch statistics."""

    def __init__(self):
        super().__init__(nn.Linear(DIM, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x):
        return (super().forward(x[-1]), )


class Trunk(nn.Module):

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 4 * 4, DIM)

    def forward(self, x):
        return (self.fc(x.flatten(1)), )


SCENARIOS = {
    'hycon': dict(head=dict(hycon=HYCON)),
    'hycon of the batch': dict(head=dict(hycon=dict(HYCON, class_balanced=True), momentum=0), num_views=2),
    'hycon, gradients to the targets': dict(head=dict(hycon=dict(HYCON, stop_gradient=False), momentum=0), num_views=2),
    'contrast': dict(head=dict(hycon=CONTRAST), num_views=2),
    'contrast, balanced': dict(head=dict(hycon=dict(CONTRAST, class_balanced=True, stop_gradient=False), momentum=0)),
    'p2p of the batch': dict(head=dict(p2p=P2P, momentum=0)),
    'p2p of the moving average': dict(head=dict(p2p=dict(P2P, norm_weight=1.0))),
    'two classifiers': dict(head=dict(p2p=P2P, share_classifier=False, predict_head='mean')),
    'everything': dict(head=dict(hycon=HYCON, p2p=P2P, projector=True, share_classifier=False), num_views=2),
    'mixture': dict(head=dict(hycon=CONTRAST, p2p=P2P, projector=True), num_views=2, mixture=dict()),
    'mixture, clean means': dict(head=dict(hycon=HYCON, p2p=P2P), mixture=dict(methods=['cutmix']), clean_means=True),
}


def build(head, **kwargs):
    torch.manual_seed(0)
    projector = head.get('projector')
    head = dict(head, projector=dict(type='PlainProjector'), proj_channels=4) if projector else head
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(
            type='AllNC', backbone=Trunk(), head=dict(dict(type='AllNCHead', num_classes=K, in_channels=DIM), **head),
            **kwargs))
    for module in model.modules():
        if hasattr(module, 'set_class_counts'):
            module.set_class_counts(COUNTS)
    model.head.set_eta(0.4)
    model.head.fc.weight.data.normal_()
    return model


def images(num_views, step):
    return torch.randn(num_views, len(LABELS), 3, 4, 4, generator=torch.Generator().manual_seed(step))


def run(scenario, rows):
    """Losses, gradients and buffers of some steps on the given samples of each view."""
    model = build(**scenario)
    module = model
    if dist.is_initialized():
        model = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    num_views, out = module.num_views, []
    for step in range(STEPS):
        np.random.seed(step)  # one mixture on all ranks
        inputs = images(num_views, step)[:, rows].flatten(0, 1)
        labels = LABELS[rows].repeat(num_views)
        samples = [DataSample().set_gt_label(label) for label in labels.tolist()]
        losses = model(inputs, samples, mode='loss')
        optimizer.zero_grad()
        sum(value for name, value in losses.items() if 'loss' in name).backward()
        grads = {name: p.grad.clone() for name, p in module.named_parameters()}
        optimizer.step()
        out.append(({name: value.item() for name, value in losses.items()}, grads))
    return out, dict(module.state_dict())


def functions(rank):
    """The gathers by themselves, and the components without a head."""
    rows = torch.tensor([[0, 1], [2, 3]])[rank]
    x = torch.arange(8.0).view(4, 2)[rows].requires_grad_()
    together = gather(x)
    (together * torch.arange(8.0).view(4, 2)).sum().backward()
    views = gather_views(torch.tensor([[0, 1, 10, 11], [2, 3, 12, 13]])[rank], 2)
    transposed = gather(torch.arange(8.0).view(2, 4).T[rows])
    return together.detach(), x.grad, views, transposed, world_size()


def class_mean_features(rows):
    """Losses, gradients and class means of some steps of CMFHead on the given samples."""
    torch.manual_seed(0)
    trunk = nn.Linear(8, DIM)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        head = MODELS.build(dict(type='CMFHead', num_classes=K, in_channels=DIM, momentum=0.5))
    model = nn.parallel.DistributedDataParallel(trunk) if dist.is_initialized() else trunk
    optimizer, out = torch.optim.SGD(trunk.parameters(), lr=0.5), []
    for step in range(STEPS):
        inputs = torch.randn(len(LABELS), 8, generator=torch.Generator().manual_seed(step))[rows]
        samples = [DataSample().set_gt_label(label) for label in LABELS[rows].tolist()]
        loss = head.loss((model(inputs), ), samples)['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        out.append((loss.item(), trunk.weight.grad.clone(), head.weight.clone()))
    return out


CONTRASTS = {
    'supcon': dict(type='SupConLoss'),
    'supcon, balanced': dict(type='SupConLoss', balanced=True),
    'proco': dict(type='ProCoLoss', num_classes=K, dim=16),
}


def contrasts(name, rows):
    """Losses, gradients and buffers of some steps of a contrastive loss on the given samples, two views each."""
    torch.manual_seed(0)
    trunk, loss = nn.Linear(8, 16), MODELS.build(CONTRASTS[name])
    if name == 'proco':
        loss.set_class_counts(COUNTS)
    model = nn.parallel.DistributedDataParallel(trunk) if dist.is_initialized() else trunk
    prototypes = torch.randn(K, 16, generator=torch.Generator().manual_seed(9)) if 'balanced' in name else None
    out = []
    for step in range(STEPS):
        inputs = torch.randn(2, len(LABELS), 8, generator=torch.Generator().manual_seed(step))[:, rows].flatten(0, 1)
        given = {} if prototypes is None else dict(prototypes=prototypes)
        value = loss(model(inputs), LABELS[rows].repeat(2), num_classes=K, num_views=2, **given)
        trunk.zero_grad()
        value.backward()
        out.append((value.item(), trunk.weight.grad.clone(), {k: v.clone() for k, v in loss.state_dict().items()}))
    return out


def worker(rank, address, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=address, rank=rank, world_size=RANKS)
    results = {name: run(scenario, PARTS[rank]) for name, scenario in SCENARIOS.items()}
    torch.save(dict(results=results, functions=functions(rank), cmf=class_mean_features(PARTS[rank]),
                    contrasts={name: contrasts(name, PARTS[rank]) for name in CONTRASTS}),
               f'{folder}/{rank}.pt')
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """What both processes found, all scenarios in one start."""
    folder = tmp_path_factory.mktemp('gloo')
    mp.spawn(worker, args=(f'file://{folder}/rendezvous', str(folder)), nprocs=RANKS)
    return [torch.load(folder / f'{rank}.pt') for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.parametrize('name', SCENARIOS)
def test_two_ranks_are_one(ranks, name):
    one, state = run(SCENARIOS[name], list(range(8)))
    for step in range(STEPS):
        (first, grads), (second, other_grads) = (rank['results'][name][0][step] for rank in ranks)
        losses, expected = one[step]
        assert set(losses) == set(first) == set(second)
        for key, value in losses.items():
            if key in ('loss_uniform', 'loss_rebalanced'):  # those of a rank's own rows
                assert (first[key] + second[key]) / 2 == pytest.approx(value, abs=1e-6, rel=1e-6), key
            else:  # those of the whole batch, known to each rank
                tolerance = 2e-3 if key.startswith('std') else 1e-6
                assert first[key] == pytest.approx(value, abs=tolerance, rel=tolerance), key
                assert second[key] == pytest.approx(value, abs=tolerance, rel=tolerance), key
        for key, value in expected.items():
            torch.testing.assert_close(grads[key], value, atol=1e-5, rtol=1e-5, msg=lambda m, k=key: f'{k}: {m}')
            assert torch.equal(grads[key], other_grads[key]), key
    for rank in ranks:
        assert set(rank['results'][name][1]) == set(state)
        for key, value in state.items():  # the moving averages, and weights after some steps
            torch.testing.assert_close(rank['results'][name][1][key], value, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_gathers(ranks):
    for rank in range(RANKS):
        together, grad, views, transposed, size = ranks[rank]['functions']
        assert size == RANKS
        assert together.tolist() == torch.arange(8.0).view(4, 2).tolist()
        # each rank backpropagates the same loss: twice the gradient, which the average over ranks takes back
        assert torch.equal(grad, 2 * torch.arange(8.0).view(4, 2)[2 * rank:2 * rank + 2])
        assert views.tolist() == [0, 1, 2, 3, 10, 11, 12, 13] and views.dtype == torch.int64
        assert torch.equal(transposed, torch.arange(8.0).view(2, 4).T)


@pytest.mark.slow
def test_two_ranks_have_the_class_mean_features_of_one(ranks):
    for first, second, one in zip(ranks[0]['cmf'], ranks[1]['cmf'], class_mean_features(list(range(8)))):
        assert (first[0] + second[0]) / 2 == pytest.approx(one[0], rel=1e-5)
        torch.testing.assert_close(first[1], one[1], rtol=1e-5, atol=1e-6)
        assert torch.equal(first[2], second[2])  # to the last bit: else the ranks would drift apart
        torch.testing.assert_close(first[2], one[2], rtol=0, atol=1e-6)
        assert not first[2][2].any()  # class 2 is on no rank
    local = class_mean_features(PARTS[0])[0][2]
    assert not torch.allclose(local, ranks[0]['cmf'][0][2], atol=1e-2)  # they are not those of the rank's own rows


@pytest.mark.slow
@pytest.mark.parametrize('name', CONTRASTS)
def test_contrastive_losses_of_two_ranks_are_those_of_one(ranks, name):
    for first, second, one in zip(*(rank['contrasts'][name] for rank in ranks), contrasts(name, list(range(8)))):
        assert (first[0] + second[0]) / 2 == pytest.approx(one[0], rel=1e-5)
        torch.testing.assert_close(first[1], one[1], rtol=1e-4, atol=1e-6)
        for key, value in one[2].items():
            torch.testing.assert_close(first[2][key], value, rtol=1e-5, atol=1e-6)
            assert torch.equal(first[2][key], second[2][key])


def test_one_process_is_left_alone():
    x = torch.randn(4, 2, requires_grad=True)
    assert gather(x) is x and gather_views(x, 2) is x and world_size() == 1
    assert not dist.is_initialized()


@pytest.mark.slow
def test_the_scenarios_tell_local_from_global(ranks):
    """Were a loss computed on a rank's own rows, the test above would notice: the values differ."""
    for name in ('hycon of the batch', 'contrast', 'p2p of the batch'):
        local, _ = run(SCENARIOS[name], PARTS[0])
        losses, _ = ranks[0]['results'][name][0][0]
        key = 'loss_p2p' if 'p2p' in name else 'loss_hycon'
        assert abs(local[0][0][key] - losses[key]) > 1e-3
