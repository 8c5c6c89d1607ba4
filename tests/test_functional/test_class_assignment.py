import itertools

import pytest
import torch

from allnc_mm.functional import assign_classes, exact_code, simplex_etf, softmax_code
from allnc_mm.functional import class_assignment as module


def score(similarity, code, order):
    rows = code[order]
    return ((similarity + similarity.T) / 2 * (rows @ rows.T)).fill_diagonal_(0).sum().item()


def rows(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('mode', ['similar', 'dissimilar'])
def test_all_orders_are_tried_where_there_are_few(mode):
    similarity, code = rows(6, 6), exact_code(6, 2)
    scores = [score(similarity, code, torch.tensor(order)) for order in itertools.permutations(range(6))]
    order = assign_classes(similarity, code, mode)
    assert order.dtype == torch.int64 and sorted(order.tolist()) == list(range(6))
    assert score(similarity, code, order) == pytest.approx(max(scores) if mode == 'similar' else min(scores), abs=1e-9)


@pytest.mark.parametrize('limit', [1000, 0])  # with SciPy's start, and from a random one
def test_a_hidden_order_is_found_again(monkeypatch, limit):
    monkeypatch.setattr(module, '_FAQ', limit)
    code = exact_code(30, 2)  # a ring
    hidden = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    similarity = (code[hidden] @ code[hidden].T) ** 3
    best = score(similarity, code, hidden)
    order = assign_classes(similarity, code)
    assert sorted(order.tolist()) == list(range(30))
    assert score(similarity, code, order) > 0.95 * best
    assert score(similarity, code, assign_classes(similarity, code, 'dissimilar')) < 0
    # no single exchange improves it
    value = score(similarity, code, order)
    for p, q in itertools.combinations(range(30), 2):
        other = order.clone()
        other[[p, q]] = order[[q, p]]
        assert score(similarity, code, other) <= value + 1e-9


def test_the_square_of_the_paper():
    """Cat and dog beside each other, not opposite."""
    similarity = torch.eye(4)
    similarity[1, 2] = similarity[2, 1] = 0.9
    square = softmax_code(4, 2)
    order = assign_classes(similarity, square)
    assert abs((square[order[1]] @ square[order[2]]).item()) < 1e-9
    worst = assign_classes(similarity, square, 'dissimilar')
    assert (square[worst[1]] @ square[worst[2]]).item() == pytest.approx(-1)


def test_random_orders_follow_the_seed():
    code, similarity = simplex_etf(12, 11), torch.zeros(12, 12)
    first = assign_classes(similarity, code, 'random', seed=1)
    assert torch.equal(first, assign_classes(similarity, code, 'random', seed=1))
    assert not torch.equal(first, assign_classes(similarity, code, 'random', seed=2))


@pytest.mark.parametrize('similarity, mode, match', [
    (torch.zeros(3, 4), 'similar', r'shape \(K, K\) with K=4.*but got \(3, 4\)'),
    (torch.zeros(5, 5), 'similar', r'with K=4.*but got \(5, 5\)'),
    (torch.full((4, 4), float('nan')), 'similar', 'finite entries in `similarity`, but 16'),
    (torch.zeros(4, 4), 'best', r"`mode` to be one of \('similar', 'dissimilar', 'random'\), but got 'best'"),
])
def test_bad_input(similarity, mode, match):
    with pytest.raises(ValueError, match=match):
        assign_classes(similarity, exact_code(4, 2), mode)
