from types import SimpleNamespace

import pytest
import torch
from torch import nn

from allnc_mm.engine.hooks import MaxNormHook


def test_long_vectors_are_shortened_and_others_left():
    model = nn.ModuleDict(dict(head=nn.ModuleDict(dict(fc=nn.Linear(2, 3)))))
    weight = model['head']['fc'].weight
    weight.data = torch.tensor([[3.0, 4.0], [0.3, -0.4], [0.0, 0.0]])
    hook = MaxNormHook(2.0)
    runner = SimpleNamespace(model=model)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    torch.testing.assert_close(weight.detach(), torch.tensor([[1.2, 1.6], [0.3, -0.4], [0.0, 0.0]]))
    assert weight.requires_grad and weight.is_leaf


def test_errors():
    with pytest.raises(ValueError, match='Expected `max_norm` > 0, but got 0'):
        MaxNormHook(0)
    with pytest.raises(ValueError, match=r"no linear layer 'head.fc' in Sequential; set `layer` to one of \['0'\]"):
        MaxNormHook().before_train(SimpleNamespace(model=nn.Sequential(nn.Linear(2, 2))))
