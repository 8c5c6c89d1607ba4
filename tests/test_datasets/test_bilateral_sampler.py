import itertools

import numpy as np
import pytest
from mmengine.dataset import ClassBalancedDataset, DefaultSampler, InfiniteSampler
from mmengine.runner import Runner

from allnc_mm.datasets import BilateralSampler, DigitsLT
from allnc_mm.registry import DATA_SAMPLERS


class Labels:
    """A data set that is only its labels."""

    def __init__(self, counts, shuffle=True, **metainfo):
        labels = np.repeat(np.arange(len(counts)), counts)
        self.labels = np.random.RandomState(0).permutation(labels) if shuffle else labels
        self.metainfo = metainfo

    def __len__(self):
        return len(self.labels)

    def get_gt_labels(self):
        return self.labels


def build(dataset, batch_size=8, epoch=0, sampler=DefaultSampler, **kwargs):
    uniform = sampler(dataset, shuffle=True, seed=3)
    uniform.epoch = epoch
    return BilateralSampler(uniform, batch_size, **kwargs)


def as_rank(monkeypatch, rank, world_size):
    info = lambda *args, **kwargs: (rank, world_size)
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', info)
    monkeypatch.setattr('allnc_mm.datasets.samplers.bilateral_sampler.get_dist_info', info)


def halves(batches):
    """All uniform and all partner indices."""
    uniform = [i for batch in batches for i in batch[:len(batch) // 2]]
    return uniform, [i for batch in batches for i in batch[len(batch) // 2:]]


def test_batches():
    dataset = Labels([50, 20, 5])
    sampler = build(dataset, q=0.0)
    assert DATA_SAMPLERS.get('BilateralSampler') is BilateralSampler
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [16] * 9 + [6] and len(sampler) == 10
    uniform, partner = halves(batches)
    assert uniform == list(sampler.sampler)  # the natural half is that of the wrapped sampler, in its order
    assert all(isinstance(i, int) and 0 <= i < 75 for i in partner)
    dropping = build(dataset, drop_last=True)
    assert list(dropping) == batches[:9] and len(dropping) == 9


@pytest.mark.parametrize('q', [1.0, 0.5, 0.0, -1.0])
def test_class_distribution(q):
    counts = [4000, 700, 250, 50]
    dataset = Labels(counts)
    sampler = build(dataset, 100, q=q)
    expected = np.array(counts, float)**q / (np.array(counts, float)**q).sum()
    np.testing.assert_allclose(sampler.prior, expected, rtol=1e-12)
    assert sampler.q == q and sampler.num_per_class.tolist() == counts
    _, partner = halves(list(sampler))
    seen = np.bincount(dataset.labels[partner], minlength=4)
    chi_square = ((seen - 5000 * expected)**2 / (5000 * expected)).sum()
    assert chi_square < 16.3  # 99.9 % of the distribution with 3 degrees of freedom; the seed is fixed


def test_without_replacement_until_exhausted():
    dataset = Labels([60, 25, 7, 1])
    _, partner = halves(list(build(dataset, q=0.0)))
    partner = np.array(partner)
    for k, size in enumerate([60, 25, 7, 1]):
        drawn = partner[dataset.labels[partner] == k]
        rounds = [drawn[i:i + size] for i in range(0, len(drawn), size)]
        assert all(len(set(part)) == len(part) for part in rounds)
        full = [part.tolist() for part in rounds if len(part) == size]
        if k == 2:
            assert len(full) >= 2 and full[0] != full[1] and set(full[0]) == set(full[1])  # shuffled anew


def test_two_ranks_share_one_stream(monkeypatch):
    dataset = Labels([61, 29, 12])
    single = list(build(dataset, 16, q=-0.5))
    ranks = []
    for rank in range(2):
        as_rank(monkeypatch, rank, 2)
        sampler = build(dataset, 8, q=-0.5)
        assert len(sampler) == 7
        ranks.append(list(sampler))
    assert not any(set(a[:len(a) // 2]) & set(b[:len(b) // 2]) for a, b in zip(*ranks))
    together = [sorted(a[len(a) // 2:] + b[len(b) // 2:]) for a, b in zip(*ranks)]
    assert together[:6] == [sorted(batch[16:]) for batch in single[:6]]  # as one process with twice the batch
    partners = np.array(halves(ranks[0])[1] + halves(ranks[1])[1])
    for k, size in enumerate([61, 29, 12]):  # over both ranks nothing comes twice in a round
        _, times = np.unique(partners[dataset.labels[partners] == k], return_counts=True)
        drawn = times.sum()
        assert times.max() <= -(-drawn // size) and (drawn < size or times.min() >= drawn // size)


def test_epochs_and_resume():
    dataset = Labels([40, 20, 4])
    uncut = [list(build(dataset, epoch=epoch)) for epoch in range(4)]
    assert all(halves(a)[1] != halves(b)[1] for a, b in itertools.combinations(uncut, 2))
    assert [list(build(dataset, epoch=epoch)) for epoch in (2, 3)] == uncut[2:]
    sampler = build(dataset)
    list(sampler)
    sampler.sampler.set_epoch(2)  # as DistSamplerSeedHook does; what was drawn before does not matter
    assert list(sampler) == uncut[2]
    assert halves(list(build(dataset, seed=99)))[1] != halves(uncut[0])[1]


def test_infinite_sampler():
    dataset = Labels([40, 20, 4])
    sampler = build(dataset, 24, sampler=InfiniteSampler)
    assert len(sampler) == 3
    batches = list(itertools.islice(sampler, 20))
    assert all(len(batch) == 48 for batch in batches)
    uniform, partner = halves(batches)
    assert uniform == list(itertools.islice(InfiniteSampler(dataset, seed=3), 480))
    assert partner[:64] != partner[64:128] != partner[128:192]
    again = list(itertools.islice(build(dataset, 24, sampler=InfiniteSampler), 20))
    assert again == batches


def test_seed_is_common_where_the_sampler_has_none(monkeypatch):
    monkeypatch.setattr('allnc_mm.datasets.samplers.bilateral_sampler.sync_random_seed', lambda: 77)
    uniform = DefaultSampler(Labels([3, 3]), seed=5)
    assert BilateralSampler(uniform, 2).seed == 5
    del uniform.seed
    assert BilateralSampler(uniform, 2).seed == 77
    assert BilateralSampler(uniform, 2, seed=0).seed == 0


def test_many_classes():
    counts = np.random.RandomState(0).zipf(1.6, 8142).clip(2, 1000)
    dataset = Labels(counts)
    _, partner = halves(list(build(dataset, 256)))
    assert len(partner) == len(dataset) and len(np.unique(dataset.labels[partner])) == 8142


def test_wrapped_data_set():
    wrapped = ClassBalancedDataset(DigitsLT(), oversample_thr=0.05)
    sampler = build(wrapped, 16, q=1.0)
    assert sampler.num_per_class.sum() == len(wrapped) > 276
    assert len(list(sampler)) == len(sampler)


def test_built_by_the_runner():
    loader = Runner.build_dataloader(
        dict(
            dataset=dict(type='DigitsLT', pipeline=[dict(type='mmpretrain.PackInputs')]),
            batch_size=32,
            sampler=dict(type='DefaultSampler', shuffle=True),
            batch_sampler=dict(type='BilateralSampler', q=0.0)),
        seed=7)
    assert loader.batch_sampler.seed == 7
    batches = [len(batch['inputs']) for batch in loader]
    assert batches == [64] * 8 + [40] and len(loader) == 9


@pytest.mark.parametrize('args, message', [
    (dict(q=float('nan')), '`q` to be finite'),
    (dict(batch_size=0), '`batch_size` to be a positive integer, but got 0'),
    (dict(batch_size=2.5), '`batch_size` to be a positive integer, but got 2.5'),
])
def test_setting_errors(args, message):
    with pytest.raises(ValueError, match=message):
        build(Labels([5, 5]), **args)


def test_class_without_images():
    dataset = Labels([5, 0, 5], classes=('a', 'b', 'c', 'd'))
    with pytest.raises(ValueError, match=r'q=0.0 .* 2 of 4 classes have none \(first: \[1, 3\]\); use q > 0'):
        build(dataset)
    sampler = build(dataset, q=0.5)
    assert sampler.prior.tolist() == [0.5, 0, 0.5, 0]
    assert set(dataset.labels[halves(list(sampler))[1]]) == {0, 2}


def test_labels_are_needed():
    with pytest.raises(TypeError, match='BilateralSampler needs one integer label per sample, but list gives none by'):
        build([1, 2, 3])
    several = Labels([2, 2])
    several.labels = [[0], [0, 1], [1], [1]]
    with pytest.raises(TypeError, match='but Labels gives none by get_gt_labels.*hard labels'):
        build(several)
    dataset = Labels([2, 2])
    dataset.labels = np.zeros((4, 2), int)
    with pytest.raises(TypeError, match=r'one integer label per sample, .* shape \(4, 2\)'):
        build(dataset)
    with pytest.raises(ValueError, match='run from 0 to 2, but its metainfo names 2 classes'):
        build(Labels([1, 1, 1], num_per_class=[1, 1]))


@pytest.mark.parametrize('size', [275, 276])
def test_the_ranks_share_one_stream_whatever_the_size(monkeypatch, size):
    """Also where the ranks do not divide the images: over several passes the draws are those of one process."""
    dataset = Labels([size - 60, 40, 20])
    single = build(dataset, 16)
    passes = [next(p) for p in [single._partners()] for _ in range(3)]
    streams = []
    for rank in range(2):
        as_rank(monkeypatch, rank, 2)
        draws = build(dataset, 8)._partners()
        streams.append(np.concatenate([next(draws) for _ in range(3)]))
    together = np.concatenate(passes)
    assert streams[0].tolist() == together[0::2].tolist() and streams[1].tolist() == together[1::2].tolist()


def test_what_would_hang_or_train_nothing_is_refused(monkeypatch):
    with pytest.raises(ValueError, match='leaves no batch: there are 10 images a rank and batch_size is 16'):
        build(Labels([5, 5]), 16, drop_last=True)
    as_rank(monkeypatch, 0, 2)
    with pytest.raises(ValueError, match='sampler has round_up=False; set train_dataloader.sampler.round_up=True'):
        BilateralSampler(DefaultSampler(Labels([5, 6]), shuffle=True, seed=0, round_up=False), 4)
