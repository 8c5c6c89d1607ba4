"""The InfoNCE form of hycon_loss as supervised contrastive learning and BCL, against loops over the published sums."""
import math

import pytest
import torch

from allnc_mm.functional.losses import hycon_loss

LABELS = [0, 0, 0, 1, 3, 0, 0, 0, 1, 3]  # two views; class 2 is absent


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop(rows, labels, prototypes, tau, average):
    """-mean_i mean_{p in P(i)} log(e^{ip} / sum_a weight_a e^{ia}), prototypes among p and a."""
    unit = lambda v: [x / math.sqrt(sum(y * y for y in v)) for x in v]
    keys = [(unit(v), y) for v, y in zip(rows, labels)] + [(unit(v), k) for k, v in enumerate(prototypes)]
    total, anchors = 0.0, 0
    for i, (z, y) in enumerate(keys[:len(rows)]):
        others = [key for a, key in enumerate(keys) if a != i]
        size = {k: sum(label == k for _, label in others) for _, k in others}
        similarity = [sum(a * b for a, b in zip(z, key)) / tau for key, _ in others]
        denominator = sum(math.exp(s) / (size[k] if average else 1) for s, (_, k) in zip(similarity, others))
        positive = [s for s, (_, k) in zip(similarity, others) if k == y]
        if positive:
            total -= sum(s - math.log(denominator) for s in positive) / len(positive)
            anchors += 1
    return total / anchors


@pytest.mark.parametrize('average', [True, False])
@pytest.mark.parametrize('with_prototypes', [True, False])
def test_against_a_loop(average, with_prototypes):
    z, prototypes = features(10, 6), features(4, 6, seed=1)
    expected = loop(z.tolist(), LABELS, prototypes.tolist() if with_prototypes else [], 0.2, average)
    found = hycon_loss(z, z, torch.tensor(LABELS), prototypes if with_prototypes else None, num_classes=4,
                       positives=('class', 'mean') if with_prototypes else ('class', ), negatives=True, temperature=0.2,
                       class_average=average, stop_gradient=False)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_class_alone_has_no_positive_and_still_repels():
    z, labels = features(4, 6).requires_grad_(), torch.tensor([0, 0, 1, 1])
    alone = torch.tensor([0, 0, 1, 2])
    for y in (labels, alone):
        loss = hycon_loss(z, z, y, num_classes=3, positives=['class'], negatives=True, class_average=False,
                          stop_gradient=False)
        assert loss.item() == pytest.approx(loop(z.tolist(), y.tolist(), [], 0.1, False), rel=1e-5)
        gradient, = torch.autograd.grad(loss, z)
        assert gradient.isfinite().all() and (gradient.norm(dim=1) > 0).all()


def test_gradient_against_differences():
    z, prototypes, labels = features(6, 4), features(3, 4, seed=1), torch.tensor([0, 0, 1, 1, 1, 1])

    def loss(x, c):
        return hycon_loss(x, x, labels, c, positives=('class', 'mean'), negatives=True, temperature=0.5,
                          stop_gradient=False)

    for index in range(2):
        inputs = [z.clone(), prototypes.clone()]
        inputs[index].requires_grad_()
        gradient, = torch.autograd.grad(loss(*inputs), inputs[index])
        direction = features(*gradient.shape, seed=7)
        step = 1e-2
        ahead, behind = ([x.detach() + (sign * step * direction if i == index else 0) for i, x in enumerate(inputs)]
                         for sign in (1, -1))
        difference = (loss(*ahead) - loss(*behind)) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=1e-2, abs=1e-4)


def test_class_averaging_closed_form():
    """Equal cosines everywhere: the denominator counts classes with averaging, samples without."""
    z = torch.ones(5, 3)
    labels = torch.tensor([0, 0, 0, 1, 1])
    settings = dict(num_classes=2, positives=['class'], negatives=True, stop_gradient=False)
    assert hycon_loss(z, z, labels, **settings).item() == pytest.approx(math.log(2))
    assert hycon_loss(z, z, labels, class_average=False, **settings).item() == pytest.approx(math.log(4))
