import pytest
import torch
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

from allnc_mm.functional.dot_regression import dot_regression_loss
from allnc_mm.functional.geometry import simplex_etf
from allnc_mm.models import DRLoss
from allnc_mm.registry import MODELS


@pytest.fixture
def batch():
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    return features, torch.tensor([0, 1, 2, 3, 1, 0]), simplex_etf(4, 5, dtype=torch.float32)


@pytest.mark.parametrize('registry', [MODELS, MMPRETRAIN_MODELS])
def test_built_from_config(registry, batch):
    loss = registry.build(dict(type='DRLoss', form='released', loss_weight=0.5))
    assert isinstance(loss, DRLoss) and loss.needs_codes
    torch.testing.assert_close(loss(*batch), 0.5 * dot_regression_loss(*batch, form='released'))


def test_settings_reach_the_formula(batch):
    for settings in (dict(form='paper', normalize=False, length=3.0), dict(form='released', normalize=True),
                     dict(length=2.0, reduction='sum'), dict(reduction='none')):
        torch.testing.assert_close(DRLoss(**settings)(*batch), dot_regression_loss(*batch, **settings))


def test_weight_and_avg_factor(batch):
    values = dot_regression_loss(*batch, reduction='none')
    weight = torch.tensor([1.0, 2.0, 0.0, 1.0, 0.5, 3.0])
    torch.testing.assert_close(DRLoss()(*batch, weight=weight), (values * weight).mean())
    torch.testing.assert_close(DRLoss()(*batch, weight=weight, avg_factor=4), (values * weight).sum() / 4)
    torch.testing.assert_close(DRLoss(reduction='none', loss_weight=2.0)(*batch, weight), 2 * values * weight)
    with pytest.raises(ValueError, match='avg_factor can not be used with reduction="sum"'):
        DRLoss(reduction='sum')(*batch, avg_factor=4)


def test_bad_settings():
    with pytest.raises(ValueError, match="`form` of DRLoss to be one of .* but got 'official'"):
        DRLoss(form='official')
    with pytest.raises(ValueError, match="`reduction` of DRLoss to be one of .* but got 'avg'"):
        DRLoss(reduction='avg')
    with pytest.raises(ValueError, match='`length` of DRLoss to be positive, but got -1'):
        DRLoss(length=-1)
