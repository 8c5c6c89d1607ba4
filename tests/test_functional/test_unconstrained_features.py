"""Unconstrained features: the last layer alone, with features as free variables, shows what a loss does.

Long-tailed classes, full batch, Adam with a little weight decay. Cross-entropy ends with the tail classes in a heap
(minority collapse); the terms of AllNC end in the simplex ETF. The classifier's Gram term carries the large weight:
the cross-entropy pulls hardest on the classifier of an imbalanced problem.
"""
import numpy as np
import pytest
import torch

from allnc_mm.functional import (
    class_means,
    exponential_profile,
    gbbn_eta,
    hycon_loss,
    logit_adjusted_cross_entropy,
    p2p_loss,
)

K, DIM, STEPS = 10, 32, 3000
P2P = dict(means_weight=3.0, classifier_weight=100.0, cross_weight=3.0)


def cosines(x):
    x = x.double().numpy() - x.double().numpy().mean(0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def train(allnc, seed=0):
    """Std of the cosines of means and classifier, mean cosine between the classifiers of the last three classes."""
    counts = torch.tensor(exponential_profile(500, 100, K))
    assert counts[0] == 500 and counts[-1] == 5
    labels = torch.repeat_interleave(torch.arange(K), counts)
    log_prior = (counts / counts.sum()).log()
    generator = torch.Generator().manual_seed(seed)
    features = (0.1 * torch.randn(len(labels), DIM, generator=generator)).requires_grad_()
    weight = (0.1 * torch.randn(K, DIM, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([features, weight], lr=1e-2, weight_decay=1e-4)
    for step in range(STEPS):
        logits = features @ weight.T
        loss = logit_adjusted_cross_entropy(logits, labels, log_prior, tau=0.0).mean()
        if allnc:
            eta = gbbn_eta(step / STEPS, gamma=2.0)
            loss = eta * loss + (1 - eta) * logit_adjusted_cross_entropy(logits, labels, log_prior).mean()
            means, _ = class_means(features, labels, K)
            loss = loss + hycon_loss(features, features, labels, means, positives=['mean'])
            loss = loss + p2p_loss(means, weight, **P2P)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    means, _ = class_means(features.detach(), labels, K)
    off = ~np.eye(K, dtype=bool)
    of_means, of_weight = cosines(means), cosines(weight.detach())
    return of_means[off].std(), of_weight[off].std(), of_weight[-3:, -3:][off[:3, :3]].mean()


@pytest.mark.slow
def test_cross_entropy_collapses_the_minority_and_allnc_does_not():
    means, weight, tail = train(allnc=False)
    assert means == pytest.approx(0.054, abs=0.01)
    assert weight == pytest.approx(0.103, abs=0.01)
    assert tail == pytest.approx(0.126, abs=0.03)

    means, weight, tail = train(allnc=True)  # .0095, .0015, -.109; the optimum is 0, 0, -1/9
    assert means <= 0.02
    assert weight <= 0.005
    assert tail <= -0.10
