import itertools
import math

import numpy as np
import pytest
import torch

from allnc_mm.functional import (
    class_means,
    cosine_moments,
    hycon_loss,
    logit_adjusted_cross_entropy,
    losses,
    one_hot,
    p2p_loss,
    p2p_terms,
    simplex_etf,
)

K, DIM = 5, 6


def array(x):
    return None if x is None else x.detach().double().numpy()


def unit(x):
    norm = np.linalg.norm(x)
    return x / norm if norm > 1e-12 else np.zeros_like(x)


# --------------------------------------------------------------------------------------------------------- HyCon


def naive_hycon(pred, target, labels, prototypes=None, present=None, num_views=1, positives=('view', 'mean'),
                negatives=False, temperature=0.1, class_balanced=False, num_classes=K):
    """Loops in float64 over anchors, keys and classes, as the docstring says."""
    p, g = ([unit(row) for row in array(x)] for x in (pred, target))
    y = array(one_hot(labels, num_classes))
    nu = array(prototypes)
    there = np.ones(num_classes, bool) if present is None else present.numpy()
    number, samples = len(p), len(p) // num_views
    values, valid = [], []
    for i in range(number):
        same_sample = [j for j in range(number) if j % samples == i % samples and j != i]
        if not negatives:
            value, ok = 0.0, False
            if 'view' in positives and same_sample:
                value -= np.mean([p[i] @ g[j] for j in same_sample])
                ok = True
            if 'mean' in positives:
                share = {k: y[i, k] for k in range(num_classes) if there[k] and y[i, k] > 0}
                if share:
                    value -= p[i] @ unit(sum(s * nu[k] for k, s in share.items()))
                    ok = True
        else:
            keys = [(g[j], y[j]) for j in range(number) if j != i]
            mass = []
            for j in range(number):
                if j == i:
                    continue
                if 'view' in positives and j in same_sample:
                    mass.append(1.0)
                elif 'class' in positives:
                    mass.append(float(y[i] @ y[j]))
                else:
                    mass.append(0.0)
            if 'mean' in positives:
                for k in range(num_classes):
                    if there[k]:
                        keys.append((unit(nu[k]), np.eye(num_classes)[k]))
                        mass.append(y[i, k])
            ok, value = sum(mass) > 0, 0.0
            if ok:
                denominator = 0.0
                for k in range(num_classes):
                    size = sum(label[k] for _, label in keys)
                    if size > 0:
                        denominator += sum(label[k] * math.exp(p[i] @ key / temperature) for key, label in keys) / size
                attraction = sum(m * (p[i] @ key) / temperature for m, (key, _) in zip(mass, keys)) / sum(mass)
                value = math.log(denominator) - attraction
        values.append(value)
        valid.append(ok)
    if not any(valid):
        return 0.0
    if not class_balanced:
        return sum(v for v, ok in zip(values, valid) if ok) / sum(valid)
    by_class = []
    for k in range(num_classes):
        weight = [y[i, k] * valid[i] for i in range(number)]
        if sum(weight) > 0:
            by_class.append(sum(w * v for w, v in zip(weight, values)) / sum(weight))
    return float(np.mean(by_class))


def hycon_data(num_views, soft, samples=8, seed=0):
    """Class 2 is absent, class 4 has one sample."""
    rng = torch.Generator().manual_seed(seed)
    hard = torch.tensor([0, 0, 0, 1, 1, 3, 3, 4])[:samples]
    labels = hard
    if soft:
        share = torch.rand(samples, 1, generator=rng)
        labels = share * one_hot(hard, K) + (1 - share) * one_hot(hard.flip(0), K)
    labels = labels.repeat(num_views, 1) if soft else labels.repeat(num_views)
    pred, target = (torch.randn(samples * num_views, DIM, generator=rng) for _ in range(2))
    return pred, target, labels, torch.randn(K, DIM, generator=rng)


FORMS = [
    dict(positives=('view', )),
    dict(positives=('mean', )),
    dict(positives=('view', 'mean')),
    dict(positives=('view', ), negatives=True),
    dict(positives=('mean', ), negatives=True),
    dict(positives=('class', ), negatives=True),
    dict(positives=('view', 'mean'), negatives=True, temperature=0.3),
    dict(positives=('view', 'class', 'mean'), negatives=True),
]


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('class_balanced', [False, True])
@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('num_views', [1, 2, 3])
@pytest.mark.parametrize('form', FORMS)
def test_hycon_against_loops(form, num_views, soft, class_balanced, masked):
    pred, target, labels, prototypes = hycon_data(num_views, soft)
    present = torch.tensor([True, False, True, True, False]) if masked else None
    settings = dict(form, num_views=num_views, class_balanced=class_balanced)
    if masked:  # what stands in the place of an absent prototype does not matter
        prototypes[~present] = 1e6
    loss = hycon_loss(pred, target, labels, prototypes, present=present, **settings)
    expected = naive_hycon(pred, target, labels, prototypes, present, **settings)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=2e-5, abs=2e-5)


@pytest.mark.parametrize('form', [f for f in FORMS if 'mean' not in f['positives']])
def test_hycon_without_prototypes(form):
    pred, target, labels, _ = hycon_data(2, False)
    loss = hycon_loss(pred, target, labels, num_classes=K, num_views=2, **form)
    assert loss.item() == pytest.approx(naive_hycon(pred, target, labels, num_views=2, **form), rel=2e-5, abs=2e-5)


@pytest.mark.parametrize('stop_gradient', [True, False])
@pytest.mark.parametrize('form', [dict(), dict(negatives=True, positives=('view', 'class', 'mean'))])
def test_hycon_gradients_against_finite_differences(form, stop_gradient):
    pred, target, labels, prototypes = (x.requires_grad_() if x.is_floating_point() and x.ndim == 2 else x
                                        for x in hycon_data(2, False))
    settings = dict(form, num_views=2, class_balanced=True)
    hycon_loss(pred, target, labels, prototypes, stop_gradient=stop_gradient, **settings).backward()
    tensors = dict(pred=pred, target=target, prototypes=prototypes)
    for name, tensor in tensors.items():
        if name != 'pred' and stop_gradient:
            assert tensor.grad is None
            continue
        direction = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3)).double()
        values = []
        for step in (1e-5, -1e-5):
            moved = {n: t.detach().double() + (step * direction if n == name else 0) for n, t in tensors.items()}
            values.append(naive_hycon(moved['pred'], moved['target'], labels, moved['prototypes'], **settings))
        expected = (values[0] - values[1]) / 2e-5
        assert (tensor.grad * direction).sum().item() == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize('terms, num_views, minimum',
                         [(('view', 'mean'), 2, -2), (('mean', ), 1, -1), (('view', ), 3, -1)])
def test_hycon_is_minimal_where_all_activations_equal_their_means(terms, num_views, minimum):
    _, _, labels, prototypes = hycon_data(num_views, False)
    collapsed = prototypes[labels]
    settings = dict(num_views=num_views, positives=terms)
    loss = hycon_loss(collapsed, collapsed, labels, prototypes, **settings)
    assert loss.item() == pytest.approx(minimum, abs=1e-6)
    for seed in range(5):
        noise = 0.1 * torch.randn(collapsed.shape, generator=torch.Generator().manual_seed(seed))
        assert hycon_loss(collapsed + noise, collapsed + noise, labels, prototypes, **settings) > loss + 1e-4


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('scale', [1e-6, 1e15])
def test_hycon_does_not_see_the_scale(form, scale):
    pred, target, labels, prototypes = hycon_data(2, False)
    loss = hycon_loss(pred, target, labels, prototypes, num_views=2, **form)
    rows = scale * torch.rand(len(pred), 1).add(0.5)
    scaled = hycon_loss(rows * pred, scale * target, labels, scale * prototypes, num_views=2, **form)
    torch.testing.assert_close(scaled, loss)


def test_class_average_in_the_denominator():
    """Copies of a head-class sample leave the negatives' share of a tail anchor alone."""
    labels = torch.tensor([0, 1, 1])
    x = torch.randn(3, DIM, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([0] * 50 + [1, 2])
    settings = dict(negatives=True, positives=('mean', ), class_balanced=True)
    many = hycon_loss(x[index], x[index], labels[index], x[:2], **settings)
    naive = naive_hycon(x[index], x[index], labels[index], x[:2], num_classes=2, **settings)
    assert many.item() == pytest.approx(naive, rel=1e-5)
    few = hycon_loss(x, x, labels, x[:2], **settings)
    assert abs(many - few) < 1.0  # an unbalanced denominator would grow by log(50) = 3.9 for the tail anchors


@pytest.mark.parametrize('negatives', [False, True])
def test_anchor_without_a_positive_contributes_nothing(negatives):
    """Two samples of class 0 with a mean, one lone sample of class 4 without."""
    pred, target, _, prototypes = hycon_data(1, False)
    labels = torch.tensor([0, 0, 4])
    pred, present = pred[:3].requires_grad_(), torch.tensor([True, True, True, True, False])
    loss = hycon_loss(pred, target[:3], labels, prototypes, present=present, negatives=negatives, positives=('mean', ))
    loss.backward()
    assert loss.isfinite() and pred.grad.isfinite().all()
    assert not pred.grad[2].any() and pred.grad[:2].abs().sum() > 0


@pytest.mark.parametrize('rows', [1, 3])
@pytest.mark.parametrize('form', [dict(positives=('view', )), dict(positives=('mean', )),
                                  dict(positives=('class', 'mean', 'view'), negatives=True)])
def test_nothing_to_attract_is_a_zero_with_zero_gradients(form, rows):
    pred = torch.randn(rows, DIM, requires_grad=True)
    loss = hycon_loss(pred, pred.detach(), torch.arange(rows), torch.ones(K, DIM),
                      present=torch.zeros(K, dtype=torch.bool), **form)
    loss.backward()
    assert loss.item() == 0 and pred.grad.shape == pred.shape and not pred.grad.any()


def test_infonce_forms_no_matrix_of_classes_by_classes(largest_tensor):
    pred, prototypes = torch.randn(8, DIM, requires_grad=True), torch.randn(300, DIM)
    with largest_tensor as largest:
        hycon_loss(pred, pred, torch.arange(8) * 30, prototypes, positives=['class', 'mean'], negatives=True).backward()
    assert 0 < largest.numel <= 8 * 308


def test_zero_activations_have_no_direction_and_a_bounded_gradient():
    pred = torch.zeros(2, DIM, requires_grad=True)
    for negatives in (False, True):
        loss = hycon_loss(pred, torch.ones(2, DIM), torch.tensor([0, 1]), torch.ones(2, DIM), negatives=negatives)
        loss.backward()
        assert loss.isfinite() and pred.grad.norm() < 2  # dividing by a clamped norm would give 1e12
        pred.grad = None


@pytest.mark.parametrize('form', [dict(), dict(negatives=True, positives=('view', 'class', 'mean'))])
def test_hycon_in_float32_whatever_comes_in(form):
    pred, target, labels, prototypes = hycon_data(2, False)
    pred, target = pred.bfloat16(), target.bfloat16()
    expected = naive_hycon(pred, target, labels, prototypes, num_views=2, **form)
    with torch.autocast('cpu', dtype=torch.bfloat16):  # would turn the products into bfloat16, three digits
        loss = hycon_loss(pred, target, labels, prototypes, num_views=2, **form)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected, rel=2e-5, abs=2e-5)


@pytest.mark.parametrize('settings, message', [
    (dict(positives=('views', )), r"`positives` to be a non-empty selection of \('view', 'class', 'mean'\).*views"),
    (dict(positives=()), 'non-empty selection'),
    (dict(positives=('class', )), "'class' needs `negatives=True`.*use 'mean'"),
    (dict(prototypes=None), "'mean' needs `prototypes` of shape"),
    (dict(num_views=3), 'Expected a multiple of num_views=3 rows, but got 16'),
    (dict(prototypes=None, positives=('view', )), 'Integer labels without `prototypes` need `num_classes`'),
])
def test_hycon_refuses(settings, message):
    pred, target, labels, prototypes = hycon_data(2, False)
    with pytest.raises(ValueError, match=message):
        hycon_loss(pred, target, labels, **dict(dict(prototypes=prototypes, num_views=2), **settings))


# ----------------------------------------------------------------------------------------------------------- P2P


def naive_directions(x, present):
    """Unit vectors from the unweighted mean of the present rows, None for the others."""
    x = array(x)
    there = [k for k in range(len(x)) if present[k]]
    if not there:
        return [None] * len(x)
    center = np.mean([x[k] for k in there], 0)
    return [unit(x[k] - center) if k in there and np.linalg.norm(x[k] - center) > 1e-9 else None for k in range(len(x))]


def naive_p2p(means, weight, present=None, target='etf'):
    """Each term as a loop over pairs, float64."""
    number = len(weight if means is None else means)
    present = [True] * number if present is None else present.tolist()
    code = array(target) if isinstance(target, torch.Tensor) else None

    def gap(cosine, i, j):
        if code is not None:
            return cosine - code[i] @ code[j]
        error = cosine - (1.0 if i == j else -1.0 / (number - 1))
        return max(error, 0.0) if target == 'hinge' and i != j else error

    def average(pairs):
        return float(np.mean(pairs)) if pairs else 0.0

    out = {}
    m = None if means is None else naive_directions(means, present)
    v = None if weight is None else naive_directions(weight, [True] * number)
    for name, x in (('means', m), ('classifier', v)):
        if x is not None:
            out[name] = average([gap(x[i] @ x[j], i, j)**2 for i in range(number) for j in range(number)
                                 if i != j and x[i] is not None and x[j] is not None])
    if m is not None and v is not None:
        out['cross'] = average([gap(m[i] @ v[j], i, j)**2 for i in range(number) for j in range(number)
                                if m[i] is not None and m[j] is not None and v[j] is not None])
    if weight is not None:
        norm = np.linalg.norm(array(weight), axis=1)
        out['norm'] = float(np.mean((norm / norm.mean() - 1)**2))
    return out


def p2p_data(num_classes=7, dim=9, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(num_classes, dim, generator=rng) + 3, torch.randn(num_classes, dim, generator=rng)


TERMS = ('means', 'classifier', 'cross', 'norm')
CODE = torch.nn.functional.normalize(torch.randn(7, 3, generator=torch.Generator().manual_seed(9)), dim=1)


@pytest.mark.parametrize('block, dim', [(None, 9), (2, 9), (3, 9), (3, 4)])  # the last one has the low-rank form
@pytest.mark.parametrize('present', [None, [1, 0, 1, 1, 0, 1, 1], [0, 0, 1, 0, 0, 0, 0], [0] * 7])
@pytest.mark.parametrize('target', ['etf', 'hinge', CODE])
def test_p2p_against_loops(target, present, block, dim, monkeypatch):
    if block:
        monkeypatch.setattr(losses, '_BLOCK', block)
    means, weight = p2p_data(dim=dim)
    present = None if present is None else torch.tensor(present, dtype=torch.bool)
    terms = p2p_terms(means, weight, present=present, target=target, terms=TERMS)
    expected = naive_p2p(means, weight, present, target)
    assert list(terms) == list(TERMS)
    for name in TERMS:
        assert terms[name].dtype == torch.float32
        assert terms[name].item() == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name
    total = p2p_loss(means, weight, present=present, target=target, means_weight=0.5, classifier_weight=2.0,
                     cross_weight=0.0, norm_weight=3.0)
    assert total.item() == pytest.approx(0.5 * expected['means'] + 2 * expected['classifier'] + 3 * expected['norm'],
                                         rel=1e-5, abs=1e-6)


@pytest.mark.parametrize('block, dim', [(None, 9), (3, 9), (3, 4)])
@pytest.mark.parametrize('target', ['etf', 'hinge', CODE])
def test_p2p_of_samples_of_classes_averages_to_that_of_all(target, block, dim, monkeypatch):
    if block:
        monkeypatch.setattr(losses, '_BLOCK', block)
    means, weight = p2p_data(dim=dim)
    subsets = list(itertools.combinations(range(7), 5))
    sampled = [p2p_terms(means, weight, target=target, terms=TERMS, sample=torch.tensor(s)) for s in subsets]
    expected = naive_p2p(means, weight, None, target)
    for name in TERMS:
        assert np.mean([terms[name].item() for terms in sampled]) == pytest.approx(expected[name], rel=1e-5), name
    assert len({round(terms['classifier'].item(), 6) for terms in sampled}) > 3
    present = torch.tensor([1, 0, 1, 1, 0, 1, 1], dtype=torch.bool)
    permuted = p2p_terms(means, weight, target=target, present=present, terms=TERMS, sample=torch.arange(7).flip(0))
    for name, value in naive_p2p(means, weight, present, target).items():  # a permutation of all is all
        assert permuted[name].item() == pytest.approx(value, rel=1e-5), name


def test_p2p_with_one_side_missing():
    means, weight = p2p_data()
    assert list(p2p_terms(means, None, terms=TERMS)) == ['means']
    assert list(p2p_terms(None, weight, terms=TERMS)) == ['classifier', 'norm']
    assert p2p_loss(None, weight).item() == pytest.approx(naive_p2p(None, weight)['classifier'], rel=1e-5)
    assert p2p_loss(means, weight, means_weight=0, classifier_weight=0, cross_weight=0).item() == 0


@pytest.mark.parametrize('dim', [9, 4])
@pytest.mark.parametrize('target', ['etf', 'hinge', CODE])
def test_row_blocks_give_the_same_gradients(target, dim, monkeypatch):
    grads = []
    for block in (2048, 2):
        monkeypatch.setattr(losses, '_BLOCK', block)
        means, weight = (x.requires_grad_() for x in p2p_data(dim=dim))
        present = torch.tensor([1, 0, 1, 1, 1, 1, 1], dtype=torch.bool)
        p2p_loss(means, weight, present=present, target=target).backward()
        grads.append((means.grad, weight.grad))
    for one, other in zip(*grads):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize('target', ['etf', CODE])
def test_p2p_gradients_against_finite_differences(target):
    means, weight = (x.requires_grad_() for x in p2p_data())
    present = torch.tensor([1, 0, 1, 1, 1, 1, 1], dtype=torch.bool)
    p2p_loss(means, weight, present=present, target=target, norm_weight=1.0).backward()
    for which, tensor in enumerate((means, weight)):
        direction = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(4)).double()
        values = []
        for step in (1e-5, -1e-5):
            moved = [x.detach().double() for x in (means, weight)]
            moved[which] += step * direction
            values.append(sum(naive_p2p(*moved, present, target).values()))
        expected = (values[0] - values[1]) / 2e-5
        assert (tensor.grad * direction).sum().item() == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert not means.grad[1].any()


@pytest.mark.parametrize('num_classes, dim', [(2, 1), (2, 4), (5, 4), (10, 9), (10, 64)])
def test_p2p_is_zero_on_an_etf_with_means_on_the_classifier(num_classes, dim):
    etf = simplex_etf(num_classes, dim, dtype=torch.float32)
    offset = torch.randn(2, 1, dim, generator=torch.Generator().manual_seed(0))
    loss = p2p_loss(5 * etf + offset[0], 0.3 * etf + offset[1])  # neither scale nor origin matters
    assert loss.item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize('num_classes, dim', [(5, 4), (5, 8), (10, 16)])
def test_p2p_is_positive_off_the_etf(num_classes, dim):
    etf = simplex_etf(num_classes, dim, dtype=torch.float32)
    rng = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=rng))[0]
    turned = p2p_terms(etf @ rotation, etf)
    assert turned['means'] < 1e-10 and turned['classifier'] < 1e-10  # the Gram terms leave the rotation free
    assert turned['cross'] > 1e-2
    for a, b in ((etf.roll(1, 0), etf), (-etf, etf)):  # wrong classes, opposite
        assert p2p_terms(a, b)['means'] < 1e-10 and p2p_terms(a, b)['cross'] > 1e-2
    moved = etf.clone()
    moved[0] += 0.3 * torch.randn(dim, generator=rng)
    assert p2p_terms(moved, etf)['means'] > 1e-5 and p2p_terms(moved, etf)['cross'] > 1e-5
    assert p2p_terms(etf, moved)['classifier'] > 1e-5


def test_the_zero_of_the_cross_term_alone_is_the_etf():
    means, weight, loss = descend(6, 8, 0, means_weight=0, classifier_weight=0)
    terms = naive_p2p(means, weight)
    assert loss < 1e-4 and terms['means'] < 1e-3 and terms['classifier'] < 1e-3


@pytest.mark.parametrize('num_classes', [2, 5, 10])
def test_orthonormal_vectors(num_classes):
    """Not centred they are 1/(K-1)^2 from the target in the mean; centred, they are the ETF."""
    code = torch.eye(num_classes)
    etf = simplex_etf(num_classes, num_classes, dtype=torch.float32)
    against_code = p2p_terms(etf, None, target=code, terms=['means'])['means']  # the target has the cosines 0
    assert against_code.item() == pytest.approx(1 / (num_classes - 1)**2, rel=1e-5)
    assert p2p_terms(code, None, terms=['means'])['means'].item() == pytest.approx(0, abs=1e-10)


def test_orthogonal_directions_after_centring():
    """Pairs +-e_i: K = 2d unit vectors whose mean is zero."""
    means = torch.cat([torch.eye(4), -torch.eye(4)])
    away = 1 / 7
    expected = (8 * 6 * away**2 + 8 * (1 - away)**2) / (8 * 7)
    assert p2p_terms(means, None, terms=['means'])['means'].item() == pytest.approx(expected, rel=1e-5)


def test_two_classes_are_always_opposite():
    means, weight = p2p_data(2, 3)
    terms = p2p_terms(means, weight)
    assert terms['means'].item() == pytest.approx(0, abs=1e-10)
    cosine = array(torch.cosine_similarity(means[0] - means[1], weight[0] - weight[1], dim=0))
    assert terms['cross'].item() == pytest.approx((cosine - 1)**2, rel=1e-4)  # the target is 1 and -1


def descend(num_classes, dim, seed, steps=1000, **settings):
    torch.manual_seed(seed)
    means, weight = (torch.randn(num_classes, dim, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.Adam([means, weight], lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = p2p_loss(means, weight, **settings)
        loss.backward()
        optimizer.step()
    return means.detach(), weight.detach(), loss.item()


@pytest.mark.parametrize('num_classes, dim, settings', [
    (2, 2, {}), (4, 4, {}), (10, 10, {}), (10, 32, {}), (2, 1, dict(cross_weight=0)), (4, 3, dict(cross_weight=0)),
    (10, 9, dict(cross_weight=0)),
])
def test_gradient_descent_reaches_the_etf(num_classes, dim, settings):
    means, weight, _ = descend(num_classes, dim, 0, **settings)
    for x in (means, weight):
        x = np.stack(naive_directions(x, [True] * num_classes))
        cosines = (x @ x.T)[~np.eye(num_classes, dtype=bool)]
        assert cosines.std() < 1e-3 and abs(cosines.mean() + 1 / (num_classes - 1)) < 1e-3
    if not settings:
        assert torch.cosine_similarity(means - means.mean(0), weight - weight.mean(0)).min() > 0.99


def test_a_mirror_image_is_a_trap_in_exactly_k_minus_one_dimensions():
    """A rotation cannot turn it over; with one more dimension it can."""
    seeds = range(2, 5)
    assert max(descend(4, 3, seed, 400)[2] for seed in seeds) > 0.3
    assert max(descend(4, 4, seed, 400)[2] for seed in seeds) < 1e-3


@pytest.mark.parametrize('num_classes, dim', [(6, 2), (10, 4), (12, 8)])
def test_lower_bound_in_too_few_dimensions(num_classes, dim):
    """No Gram matrix of rank d comes nearer to the ETF's of rank K-1 than a tight frame, with d eigenvalues K/d."""
    rank_bound = (num_classes - 1 - dim) * (num_classes / (num_classes - 1))**2 / num_classes**2
    squares = num_classes**2 * (num_classes - 1 - dim) / (dim * (num_classes - 1))
    bound = squares / (num_classes * (num_classes - 1))  # mean over the pairs; the diagonal is exact
    assert bound > rank_bound
    torch.manual_seed(0)
    means = torch.randn(num_classes, dim, requires_grad=True)
    optimizer = torch.optim.Adam([means], lr=0.02)
    for _ in range(800):
        optimizer.zero_grad()
        loss = p2p_terms(means, None, terms=['means'])['means']
        assert loss.item() > bound * (1 - 1e-5)
        loss.backward()
        optimizer.step()
    assert loss.item() < bound * 1.02  # and it is reached


def test_hinge_lets_small_cosines_be():
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1e-3], [0.0, -1e-3]])  # cosines -1 and 0; the ETF's is -1/3
    hinge, etf = (p2p_terms(means, None, target=x, terms=['means'])['means'].item() for x in ('hinge', 'etf'))
    assert hinge == pytest.approx(8 * (1 / 3)**2 / 12, rel=1e-5)
    assert etf == pytest.approx((8 * (1 / 3)**2 + 4 * (2 / 3)**2) / 12, rel=1e-5)


@pytest.mark.parametrize('fill', [float('nan'), float('inf'), 1e30])
def test_absent_classes_have_no_value_no_gradient_no_nan(fill):
    means, weight = p2p_data()
    present = torch.tensor([1, 1, 1, 0, 1, 1, 0], dtype=torch.bool)
    clean = p2p_loss(means, weight, present=present)
    means[~present] = fill
    means.requires_grad_(), weight.requires_grad_()
    loss = p2p_loss(means, weight, present=present)
    loss.backward()
    assert torch.equal(loss, clean)
    assert means.grad.isfinite().all() and weight.grad.isfinite().all()
    assert not means.grad[~present].any() and means.grad[present].abs().sum() > 0


@pytest.mark.parametrize('make', [
    lambda: torch.zeros(7, 9),
    lambda: torch.ones(7, 9) * torch.rand(9, generator=torch.Generator().manual_seed(0)),  # not exact in binary
    lambda: torch.ones(7, 9) * 1e8 * torch.rand(9, generator=torch.Generator().manual_seed(1)),
])
def test_equal_rows_have_no_direction(make):
    """Their differences are rounding errors; a direction of those would have gradients of any size."""
    means, weight = make().requires_grad_(), p2p_data()[1].requires_grad_()
    terms = p2p_terms(means, weight)
    assert terms['means'] == 0 and terms['cross'] == 0 and terms['classifier'] > 0
    sum(terms.values()).backward()
    assert not means.grad.any() and weight.grad.isfinite().all()


def test_one_row_on_the_mean_of_the_others():
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0]])
    means = (means + torch.tensor([0.1, 0.7])).requires_grad_()
    loss = p2p_terms(means, None, terms=['means'])['means']
    loss.backward()
    assert loss.item() == pytest.approx((4 * 0.75**2 + 8 * 0.25**2) / 12, rel=1e-5)  # the pairs of the first four
    assert means.grad.isfinite().all() and means.grad.abs().max() < 1


def test_one_class_present():
    means, weight = (x.requires_grad_() for x in p2p_data())
    terms = p2p_terms(means, weight, present=torch.arange(7) == 3)
    assert terms['means'] == 0 and terms['cross'] == 0
    sum(terms.values()).backward()
    assert not means.grad.any() and weight.grad.isfinite().all()


@pytest.mark.parametrize('scale', [1e-6, 1e15])
def test_p2p_does_not_see_the_scale(scale):
    means, weight = p2p_data()
    loss = p2p_loss(means, weight, norm_weight=1.0)
    torch.testing.assert_close(p2p_loss(scale * means, scale * weight, norm_weight=1.0), loss)


def test_p2p_in_float32_whatever_comes_in():
    means, weight = (x.bfloat16() for x in p2p_data())
    expected = naive_p2p(means, weight)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        terms = p2p_terms(means, weight)
        loss = p2p_loss(means, weight)
    assert loss.dtype == torch.float32
    for name, value in terms.items():
        assert value.dtype == torch.float32 and value.item() == pytest.approx(expected[name], rel=1e-4)


def test_single_sample_classes():
    features = torch.randn(4, 6, requires_grad=True)
    means, counts = class_means(features, torch.tensor([0, 1, 2, 2]), 5)
    loss = p2p_loss(means, torch.randn(5, 6), present=counts > 0)
    loss.backward()
    assert loss.isfinite() and features.grad.isfinite().all()
    torch.testing.assert_close(features.grad[2], features.grad[3])  # they share one mean


@pytest.mark.parametrize('args, settings, message', [
    ((None, None), {}, 'p2p needs `means`, `weight` or both'),
    ((torch.ones(1, 3), None), {}, 'with K >= 2'),
    ((torch.ones(3, 3), torch.ones(4, 3)), {}, r'one shape \(K, d\).*\[\(3, 3\), \(4, 3\)\]'),
    ((torch.ones(3, 3), torch.ones(3, 4)), {}, 'cross term needs.*3 and 4; set cross_weight=0'),
    ((torch.ones(3, 3), None), dict(target='ETF'), "Expected `target` to be one of.*'ETF'"),
    ((torch.ones(3, 3), None), dict(target=torch.ones(4, 3)), r'target code with K=3 rows, but got shape \(4, 3\)'),
])
def test_p2p_refuses(args, settings, message):
    with pytest.raises(ValueError, match=message):
        p2p_terms(*args, **settings)


# --------------------------------------------------------------------------------- cosine moments, logit adjustment


@pytest.mark.parametrize('shape', [(7, 9), (9, 4), (2, 3)])
@pytest.mark.parametrize('masked', [False, True])
def test_cosine_moments_against_loops(shape, masked):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) + 2
    present = torch.ones(shape[0], dtype=torch.bool)
    if masked and shape[0] > 2:
        present[[0, 3]] = False
        x[0] = float('nan')
    x = x.bfloat16()
    rows = [v for v in naive_directions(x, present) if v is not None]
    cosines = [a @ b for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mean, std = cosine_moments(x, present)
    assert mean.dtype == std.dtype == torch.float32
    assert mean.item() == pytest.approx(np.mean(cosines), abs=1e-5)
    assert std.item() == pytest.approx(np.std(cosines), abs=1e-3)


def test_cosine_moments_of_many_rows_are_those_of_some(monkeypatch):
    monkeypatch.setattr(losses, '_BLOCK', 4)
    x = p2p_data(num_classes=8)[0]
    with torch.no_grad():
        expected = cosine_moments(x[::2])
        found = cosine_moments(x)
    centred = torch.nn.functional.normalize((x - x.mean(0))[::2], dim=1)
    off = (centred @ centred.T)[~torch.eye(4, dtype=torch.bool)]
    torch.testing.assert_close(found, (off.mean(), off.std(correction=0)), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found[0], expected[0])  # from the mean of all rows, not of the four


def test_cosine_moments_of_an_etf_and_of_nothing():
    mean, std = cosine_moments(3 * simplex_etf(10, 20, dtype=torch.float32) + 1)
    assert mean.item() == pytest.approx(-1 / 9, abs=1e-5) and std.item() < 2e-3
    for x, present in ((torch.ones(3, 2), None), (torch.eye(3), torch.tensor([True, False, False]))):
        mean, std = cosine_moments(x, present)
        assert mean.isnan() and std.isnan()


@pytest.mark.parametrize('tau', [0.0, 1.0, 1.7])
@pytest.mark.parametrize('soft', [False, True])
def test_logit_adjustment_against_loops(tau, soft):
    rng = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(6, 4, generator=rng)
    prior = torch.tensor([0.7, 0.2, 0.09, 0.01])
    labels = torch.tensor([0, 1, 2, 3, 3, 0])
    if soft:
        labels = torch.rand(6, 4, generator=rng)
        labels = labels / labels.sum(1, keepdim=True)
    loss = logit_adjusted_cross_entropy(logits, labels, prior.log(), tau)
    for i in range(6):
        z = array(logits[i]) + tau * np.log(array(prior))
        log_p = z - np.log(np.exp(z).sum())
        expected = -(array(labels[i]) @ log_p) if soft else -log_p[labels[i]]
        assert loss[i].item() == pytest.approx(expected, rel=1e-4)


def test_logit_adjustment_is_float32_and_survives_huge_logits():
    log_prior = torch.tensor([0.99, 0.01]).log()
    loss = logit_adjusted_cross_entropy(torch.tensor([[3.0, 1.0]]).bfloat16(), torch.tensor([1]), log_prior)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(math.log(1 + math.exp(2) * 99), rel=1e-5)
    huge = logit_adjusted_cross_entropy(torch.tensor([[1e20, -1e20]]), torch.tensor([0]), log_prior)
    assert huge.item() == 0


def test_balanced_softmax_has_its_minimum_at_balanced_posteriors():
    """With the prior in the training loss, the raw logits become those of a balanced problem: here all equal."""
    counts = torch.tensor([90.0, 9.0, 1.0])
    logits = torch.zeros(1, 3, requires_grad=True)
    loss = sum(n * logit_adjusted_cross_entropy(logits, torch.tensor([k]), (counts / 100).log())[0]
               for k, n in enumerate(counts))
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.zeros(1, 3), atol=1e-5, rtol=0)
