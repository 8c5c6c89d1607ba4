import pytest
import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

import allnc_mm  # noqa: F401


def build(model, **kwargs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return OPTIM_WRAPPERS.build(dict(type='BFloat16OptimWrapper', optimizer=optimizer, **kwargs))


def test_forward_is_bfloat16_and_the_weights_stay_float32():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    before = model[0].weight.detach().clone()
    wrapper = build(model)
    inputs = torch.randn(3, 4)
    with wrapper.optim_context(model):
        output = model(inputs)
    assert output.dtype == torch.bfloat16
    wrapper.update_params(output.float().square().mean())
    assert model[0].weight.dtype == torch.float32
    assert not torch.equal(model[0].weight, before)
    assert model(inputs).dtype == torch.float32  # autocast ended with the context


def test_one_step_is_a_float32_step_up_to_rounding():
    torch.manual_seed(0)
    model, inputs = nn.Linear(4, 2), torch.randn(8, 4)
    reference = nn.Linear(4, 2)
    reference.load_state_dict(model.state_dict())
    wrapper = build(model)
    with wrapper.optim_context(model):
        loss = model(inputs).float().square().mean()
    wrapper.update_params(loss)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    reference(inputs).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model.weight, reference.weight)
    torch.testing.assert_close(model.weight, reference.weight, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize('steps, changed', [(1, False), (2, True)])
def test_accumulation_and_clipping_of_the_base_class_still_work(steps, changed):
    model = nn.Linear(4, 2)
    before = model.weight.detach().clone()
    wrapper = build(model, accumulative_counts=2, clip_grad=dict(max_norm=0.01))
    with torch.no_grad():
        wrapper.initialize_count_status(model, 0, 4)
    for _ in range(steps):
        with wrapper.optim_context(model):
            loss = model(torch.ones(1, 4)).float().sum()
        wrapper.update_params(loss)
    assert torch.equal(model.weight, before) != changed
    if changed:  # lr 0.1 times the clipped norm
        assert (model.weight - before).norm() <= 0.1 * 0.01 + 1e-6
