"""Pixel losses against naive loops over all pixels, and two gloo processes against one."""
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

import allnc_mm.segmentation  # noqa: F401
from allnc_mm.functional import hycon_loss, p2p_loss, simplex_etf
from allnc_mm.registry import MODELS
from allnc_mm.segmentation.losses import LogitAdjustedSegLoss

K, DIM, SIZE, RANKS, STEPS = 5, 6, (8, 10), 2, 3
COUNTS = [500, 100, 40, 10, 3]


def labels(step=0):
    """Four maps, the first unlabelled. Class 0 is in the first half of the batch only, 4 in the second, 2 in none."""
    maps = torch.randint(0, 2, (4, *SIZE), generator=torch.Generator().manual_seed(step)) * 3
    maps[:2][maps[:2] == 3] = 1
    maps[2:][maps[2:] == 0] = 4
    maps[:, :2] = 255
    maps[0] = 255
    assert maps[maps != 255].bincount().max() <= 80  # the cap does not bind: all pixels are drawn
    return maps


def features(step=0, views=1):
    return torch.randn(views, 4, DIM, 4, 5, generator=torch.Generator().manual_seed(10 + step))


def geometry(**kwargs):
    torch.manual_seed(0)
    return MODELS.build(dict(dict(type='PixelGeometry', num_classes=K, in_channels=DIM, max_pixels=80), **kwargs))


HYCON, P2P = dict(type='HyConLoss', class_balanced=True), dict(type='P2PLoss')
WEIGHT = torch.randn(K, DIM, generator=torch.Generator().manual_seed(5))


def all_pixels(z, y):
    """Features (N, d) and labels of every labelled pixel, by the interpolation that a segmentation loss uses."""
    rows = F.interpolate(z, SIZE, mode='bilinear').permute(0, 2, 3, 1)[y != 255].double()
    return rows, y[y != 255]


@pytest.mark.parametrize('momentum', [0, 0.6])
def test_p2p_is_that_of_all_pixels(momentum):
    module = geometry(p2p=P2P, momentum=momentum)
    sums, counts = torch.zeros(K, DIM).double(), torch.zeros(K).double()
    for step in range(STEPS):
        z, y = features(step)[0].requires_grad_(), labels(step)
        rows, kept = all_pixels(z, y)
        batch_sums = torch.stack([rows[kept == k].sum(0) for k in range(K)])
        batch_counts = torch.stack([(kept == k).sum() for k in range(K)]).double()
        value = batch_sums / batch_counts.clamp_min(1)[:, None]
        present = batch_counts > 0
        if momentum:
            for k in range(K):
                if batch_counts[k]:
                    sums[k] = momentum * sums[k] + (1 - momentum) * batch_sums[k].detach()
                    counts[k] = momentum * counts[k] + (1 - momentum) * batch_counts[k]
            present = counts > 0
            value = (sums / counts.clamp_min(1e-12)[:, None]) + value - value.detach()
        expected = p2p_loss(value, WEIGHT.double(), present=present)
        loss = module(z, y, WEIGHT)['loss_p2p']
        torch.testing.assert_close(loss.double(), expected.double(), atol=1e-5, rtol=1e-5)
        grads = [torch.autograd.grad(x, z, retain_graph=True)[0] for x in (loss, expected)]
        torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-4)


def test_hycon_is_that_of_all_pixels():
    module = geometry(hycon=HYCON, momentum=0)
    z, y = features(views=2), labels()
    rows = [all_pixels(view, y) for view in z]
    pixels, kept = torch.cat([r for r, _ in rows]), torch.cat([k for _, k in rows])
    directions = F.normalize(pixels, dim=1)
    means = torch.stack([directions[kept == k].mean(0) if (kept == k).any() else torch.zeros(DIM).double()
                         for k in range(K)])
    per_class = []
    half = len(pixels) // 2
    for k in kept.unique():
        values = []
        for i in torch.nonzero(kept == k).flatten():
            other = directions[(i + half) % (2 * half)]
            values.append(-(directions[i] @ other) - directions[i] @ F.normalize(means[k], dim=0))
        per_class.append(torch.stack(values).mean())
    loss = module(z.flatten(0, 1), y, WEIGHT, num_views=2)['loss_hycon']
    assert loss.item() == pytest.approx(torch.stack(per_class).mean().item(), abs=1e-5)


def test_padding_rows_are_no_samples():
    """HyCon of the drawn rows with their padding is that without it, in every form."""
    torch.manual_seed(0)
    rows, label = torch.randn(12, 4), torch.tensor([0, 0, 2, 2, 2, 1])
    one_hot = F.one_hot(label, 3).float().repeat(2, 1)
    keep = torch.tensor([True, False, True, True, False, True]).repeat(2)
    means = torch.randn(3, 4)
    for settings in (dict(), dict(class_balanced=True), dict(negatives=True, positives=('view', 'class', 'mean')),
                     dict(negatives=True, class_average=False, positives=('view', 'mean'))):
        padded = hycon_loss(rows, rows, one_hot * keep[:, None], means, num_views=2, **settings)
        without = hycon_loss(rows[keep], rows[keep], one_hot[keep], means, num_views=2, **settings)
        torch.testing.assert_close(padded, without)


def test_memory_does_not_grow_with_the_image():
    module = geometry(hycon=HYCON, p2p=P2P, max_pixels=3)
    seen = []
    module.hycon.register_forward_hook(lambda m, args, out: seen.append(args[0].shape))
    module(features()[0], labels(), WEIGHT)
    module(torch.randn(1, DIM, 40, 40), torch.zeros(1, 100, 100).long(), WEIGHT)
    assert seen == [(3 * K, DIM)] * 2


def test_capped_means_count_all_pixels():
    module = geometry(hycon=HYCON, p2p=P2P, max_pixels=3, momentum=0.5)
    y = labels()
    module(features(views=2).flatten(0, 1), y, WEIGHT, num_views=2)
    counts = 2 * torch.stack([(y == k).sum() for k in range(K)]).float()
    for means in (module.p2p_means, module.hycon_means):
        torch.testing.assert_close(means.counts, 0.5 * counts)  # a rank with more road weighs more in its mean


def test_training_collapses_the_pixels():
    """Gradient descent on HyCon and P2P alone takes the pixels to a simplex that the classifier shares."""
    torch.manual_seed(0)
    y = torch.arange(K).repeat_interleave(2).repeat(8, 1)[None]
    z = nn.Parameter(0.5 * torch.randn(1, DIM, 8, 10))
    weight = nn.Parameter(torch.randn(K, DIM))
    module = geometry(hycon=HYCON, p2p=P2P, max_pixels=16, momentum=0)
    optimizer = torch.optim.Adam([z, weight], 0.05)
    for _ in range(400):
        losses = module(z, y, weight)
        optimizer.zero_grad()
        (losses['loss_hycon'] + losses['loss_p2p']).backward()
        optimizer.step()
    v = F.normalize((weight - weight.mean(0)).double(), dim=1).detach()
    etf = simplex_etf(K, DIM)
    torch.testing.assert_close(v @ v.T, etf @ etf.T, atol=0.02, rtol=0)
    rows, kept = all_pixels(z.detach(), y)
    cosine = F.normalize(rows - rows.mean(0), dim=1) @ v.T
    assert (cosine.argmax(1) == kept).double().mean() > 0.95


def center(**kwargs):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        head = MODELS.build(dict(dict(
            type='CenterCollapseHead', in_channels=DIM, num_classes=K, in_index=0, channels=4, embed_dims=8,
            norm_cfg=None, dropout_ratio=0.0, max_pixels=160), **kwargs))
    head.set_class_counts(COUNTS)
    return head


def samples(maps):
    return [SegDataSample(gt_sem_seg=PixelData(data=y[None])) for y in maps]


def test_center_loss_is_that_of_all_pixels():
    head = center(loss_weight=2.0)
    z, y = features()[0].requires_grad_(), labels()
    rows, kept = all_pixels(head.reduce(z), y)
    log_prior = (torch.tensor(COUNTS).double() / sum(COUNTS)).log()
    linear = head.gain[0]
    values = []
    for k in kept.unique():
        h = F.relu(linear.weight.double() @ rows[kept == k].mean(0) + linear.bias.double())
        logits = 5.0 * head.code.double() @ F.normalize(h, dim=0) + log_prior
        values.append(F.cross_entropy(logits[None], k[None]))
    loss = head.loss((z, ), samples(y))['loss_center']
    expected = 2 * torch.stack(values).mean()
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-5)
    grads = [torch.autograd.grad(x, [z, *head.parameters()], retain_graph=True) for x in (loss, expected)]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_center_head_is_trained_or_frozen():
    z, y = features()[0].requires_grad_(), labels()
    for frozen in (False, True):
        head = center(frozen=frozen, norm_cfg=dict(type='BN'))
        head.loss((z, ), samples(y))['loss_center'].backward()
        assert all((p.grad is None) == frozen for p in head.parameters()) and len(list(head.parameters())) == 5
        assert z.grad.abs().sum() > 0  # the decoder learns from it in both forms
        z.grad = None
    with pytest.raises(RuntimeError, match='PixelCountsHook'):
        head.log_prior = None
        head.loss((z, ), samples(y))


@pytest.mark.parametrize('tau', [0.0, 1.5])
@pytest.mark.parametrize('class_weight', [None, [1.0, 2.0, 0.5, 3.0, 1.0]])
def test_logit_adjusted_pixels(tau, class_weight):
    loss = LogitAdjustedSegLoss(tau=tau, num_per_class=COUNTS, class_weight=class_weight, loss_weight=2.0)
    logits, y = torch.randn(4, K, *SIZE, generator=torch.Generator().manual_seed(0)), labels()
    weight = torch.rand(4, *SIZE, generator=torch.Generator().manual_seed(1))
    prior = torch.tensor(COUNTS).double() / sum(COUNTS)
    total = norm = 0.0
    for n, i, j in torch.nonzero(y != 255).tolist():
        k = int(y[n, i, j])
        row = logits[n, :, i, j].double() + tau * prior.log()
        w = 1.0 if class_weight is None else class_weight[k]
        total += w * float(weight[n, i, j]) * float(row.logsumexp(0) - row[k])
        norm += w
    assert loss(logits, y, weight=weight, ignore_index=255).item() == pytest.approx(2 * total / norm, rel=1e-5)
    assert loss(logits, torch.full_like(y, 255), ignore_index=255) == 0
    assert loss.loss_name == 'loss_ce' and not loss.state_dict()


SCENARIOS = {
    'moving averages': dict(hycon=HYCON, p2p=P2P),
    'of the batch': dict(hycon=dict(HYCON, positives=['mean']), p2p=P2P, momentum=0),
    'contrast': dict(hycon=dict(HYCON, negatives=True, positives=['view', 'class', 'mean']), proj_channels=4,
                     predictor=True),
}


class Model(nn.Module):

    def __init__(self, scenario):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Conv2d(DIM, DIM, 1)
        self.conv_seg = nn.Conv2d(DIM, K, 1)
        self.geometry, self.center = geometry(**scenario), center()

    def forward(self, z, y):
        views = len(z)
        z = self.trunk(z.flatten(0, 1))
        losses = self.geometry(z, y, self.conv_seg.weight.flatten(1), views)
        losses.update(self.center.loss((z, ), samples(y.repeat(views, 1, 1))))
        return dict(losses, loss_zero=0 * self.conv_seg(z).sum())


def run(name, rows):
    module = model = Model(SCENARIOS[name])
    if dist.is_initialized():
        model = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    optimizer, out = torch.optim.SGD(model.parameters(), 0.1), []
    for step in range(STEPS):
        losses = model(features(step, views=2)[:, rows], labels(step)[rows])
        optimizer.zero_grad()
        sum(v for k, v in losses.items() if 'loss' in k).backward()
        grads = {k: p.grad.clone() for k, p in module.named_parameters()}
        optimizer.step()
        out.append(({k: v.item() for k, v in losses.items()}, grads))
    return out, dict(module.state_dict())


def worker(rank, address, folder):
    dist.init_process_group('gloo', init_method=address, rank=rank, world_size=RANKS)
    try:
        results = {name: run(name, [[0, 1], [2, 3]][rank]) for name in SCENARIOS}
        torch.save(results, f'{folder}/{rank}.pt')
        dist.barrier()
    finally:
        dist.destroy_process_group()


def second_worker(_, *args):
    torch.set_num_threads(1)
    worker(1, *args)


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path):
    args = f'file://{tmp_path}/rendezvous', str(tmp_path)
    second = mp.spawn(second_worker, args=args, nprocs=1, join=False)
    worker(0, *args)  # here: one process less to start
    while not second.join():
        pass
    ranks = [torch.load(tmp_path / f'{rank}.pt') for rank in range(RANKS)]
    for name in SCENARIOS:
        one, state = run(name, list(range(4)))
        for step, (losses, grads) in enumerate(one):
            for rank in ranks:
                found, found_grads = rank[name][0][step]
                for key, value in losses.items():
                    assert found[key] == pytest.approx(value, abs=2e-5, rel=2e-5), (name, step, key)
                for key, value in grads.items():
                    torch.testing.assert_close(found_grads[key], value, atol=2e-5, rtol=1e-4)
        for rank in ranks:
            for key, value in state.items():
                torch.testing.assert_close(rank[name][1][key], value, atol=2e-5, rtol=1e-4)
