import numpy as np
import pytest

from allnc_mm.datasets import ClassBalancedSampler
from allnc_mm.registry import DATA_SAMPLERS

COUNTS = [2000, 500, 20]


class Labels:
    """A data set that is only its labels."""
    metainfo = {}

    def __init__(self, counts=COUNTS):
        self.labels = np.random.RandomState(0).permutation(np.repeat(np.arange(len(counts)), counts))

    def __len__(self):
        return len(self.labels)

    def get_gt_labels(self):
        return self.labels


@pytest.mark.parametrize('q', [0.0, 1.0, 0.5, -1.0])
def test_class_shares(q):
    dataset, shares = Labels(), np.array(COUNTS, dtype=float)**q
    drawn = list(ClassBalancedSampler(dataset, q=q, seed=0))
    assert len(drawn) == len(dataset) == len(ClassBalancedSampler(dataset, q=q, seed=0))
    found = np.bincount(dataset.labels[drawn], minlength=3) / len(drawn)
    np.testing.assert_allclose(found, shares / shares.sum(), atol=0.03)  # three standard deviations


def test_images_of_a_class_take_turns():
    dataset = Labels()
    drawn = np.array(list(ClassBalancedSampler(dataset, seed=0)))
    times = np.bincount(drawn, minlength=len(dataset))
    for k in range(3):
        of_class = times[dataset.labels == k]
        assert of_class.max() - of_class.min() <= 1


def test_epochs_differ_and_are_reproducible():
    def epoch(number, seed=0):
        sampler = ClassBalancedSampler(Labels(), seed=seed)
        sampler.set_epoch(number)
        return list(sampler)

    assert epoch(3) == epoch(3) and epoch(3) != epoch(4) and epoch(3) != epoch(3, seed=1)


def test_ranks_share_one_stream(monkeypatch):
    dataset, parts = Labels(), []
    for rank in range(2):
        info = lambda *args, rank=rank: (rank, 2)
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', info)
        monkeypatch.setattr('allnc_mm.datasets.samplers.bilateral_sampler.get_dist_info', info)
        parts.append(list(ClassBalancedSampler(dataset, seed=0)))
    assert len(parts[0]) == len(parts[1]) == len(dataset) // 2
    times = np.bincount(np.concatenate(parts)[:len(dataset)], minlength=len(dataset))
    assert np.ptp(times[dataset.labels == 2]) <= 1  # no draw is used twice


def test_registered_and_refuses_an_empty_class():
    sampler = DATA_SAMPLERS.build(dict(type='ClassBalancedSampler', q=0.0), default_args=dict(dataset=Labels(), seed=1))
    assert isinstance(sampler, ClassBalancedSampler)
    with pytest.raises(ValueError, match='q=nan|finite'):
        ClassBalancedSampler(Labels(), q=float('nan'), seed=0)
