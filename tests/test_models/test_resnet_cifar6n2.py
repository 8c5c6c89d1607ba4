import math

import pytest
import torch
import torch.nn as nn
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

from allnc_mm.models import ResNetCIFAR6n2
from allnc_mm.models.backbones.resnet_cifar6n2 import ZeroPadShortcut


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


# He et al. 2016, table 6 (.27M, .46M, .66M, .85M, 1.7M), to the parameter as in the public CIFAR code; the linear layer
# of 10 classes has 650.
@pytest.mark.parametrize('depth, total', [(20, 269722), (32, 464154), (44, 658586), (56, 853018), (110, 1727962)])
def test_published_parameter_counts(depth, total):
    assert count(ResNetCIFAR6n2(depth)) + 650 == total
    # Option B adds two 1x1 convolutions with their normalisation.
    assert count(ResNetCIFAR6n2(depth, shortcut='B')) + 650 - total == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


@pytest.mark.parametrize('shortcut', ['A', 'B'])
@pytest.mark.parametrize('base_channels, size', [(16, 32), (5, 16), (3, 15), (1, 8)])
def test_shapes(shortcut, base_channels, size):
    model = ResNetCIFAR6n2(20, base_channels=base_channels, shortcut=shortcut, out_indices=(0, 1, 2))
    outs = model(torch.rand(2, 3, size, size))
    assert [tuple(out.shape) for out in outs] == [
        (2, base_channels * 2**i, math.ceil(size / 2**i), math.ceil(size / 2**i)) for i in range(3)]
    assert model.feat_dim == 4 * base_channels


def test_out_indices_and_in_channels():
    model = ResNetCIFAR6n2(20, base_channels=4, in_channels=1, out_indices=[1])
    out, = model(torch.rand(2, 1, 16, 16))
    assert out.shape == (2, 8, 8, 8) and model.feat_dim == 8


def test_zero_pad_shortcut():
    x = torch.rand(2, 3, 5, 6)
    out = ZeroPadShortcut(3, 6, 2)(x)
    assert out.shape == (2, 6, 3, 3)
    expected = torch.zeros(2, 6, 3, 3)
    for n in range(2):
        for c in range(3):
            for i in range(3):
                for j in range(3):
                    expected[n, c + 1, i, j] = x[n, c, 2 * i, 2 * j]
    assert torch.equal(out, expected)


def test_against_a_network_written_out():
    """The released ResNet-20 of LDAM-DRW, layer by layer, with the same weights."""
    torch.manual_seed(0)
    model = ResNetCIFAR6n2(20, base_channels=4)
    model.init_weights()
    x = torch.rand(4, 3, 16, 16)
    convs = iter([m for m in model.modules() if isinstance(m, nn.Conv2d)])

    def conv_norm(x, stride=1):
        x = nn.functional.conv2d(x, next(convs).weight, stride=stride, padding=1)
        return nn.functional.batch_norm(x, None, None, training=True)

    out = conv_norm(x).relu()
    for width, stride in ((4, 1), (8, 2), (16, 2)):
        for block in range(3):
            step = stride if block == 0 else 1
            hidden = conv_norm(conv_norm(out, step).relu())
            if step == 2:
                out = nn.functional.pad(out[:, :, ::2, ::2], (0, 0, 0, 0, width // 4, width // 4))
            out = (hidden + out).relu()
    assert next(convs, None) is None
    torch.testing.assert_close(model(x)[0], out)


def test_initialisation():
    torch.manual_seed(0)
    model = ResNetCIFAR6n2(20, base_channels=32)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (module.in_channels * 9))  # Kaiming normal, fan in
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


@pytest.mark.parametrize('shortcut', ['A', 'B'])
def test_channels_last_is_kept(shortcut):
    torch.manual_seed(0)
    model = ResNetCIFAR6n2(20, shortcut=shortcut, out_indices=(0, 1, 2))
    layouts = []
    for module in model.modules():
        module.register_forward_hook(lambda m, i, out: layouts.append(out) if isinstance(out, torch.Tensor) else None)
    x = torch.rand(2, 3, 16, 16)
    expected = [out.detach() for out in model(x)]
    layouts.clear()
    model.to(memory_format=torch.channels_last)
    outs = model(x.to(memory_format=torch.channels_last))
    for out in layouts:
        assert out.is_contiguous(memory_format=torch.channels_last)
    for out, reference in zip(outs, expected):
        torch.testing.assert_close(out, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('shortcut', ['A', 'B'])
def test_compiles_without_a_graph_break(shortcut):
    model = ResNetCIFAR6n2(20, base_channels=4, shortcut=shortcut)
    model.eval()
    x = torch.rand(2, 3, 16, 16)
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(x)[0], model(x)[0])


def test_norm_cfg_and_gradients():
    model = MMPRETRAIN_MODELS.build(
        dict(type='ResNetCIFAR6n2', depth=20, base_channels=4, norm_cfg=dict(type='GN', num_groups=2), shortcut='B'))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    model.init_weights()
    model(torch.rand(2, 3, 16, 16))[0].square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_state_dict_round_trip():
    source, target = (ResNetCIFAR6n2(20, base_channels=4) for _ in range(2))
    source(torch.rand(4, 3, 16, 16))  # moves the running statistics
    target.load_state_dict(source.state_dict(), strict=True)
    x = torch.rand(2, 3, 16, 16)
    source.eval(), target.eval()
    assert torch.equal(source(x)[0], target(x)[0])


@pytest.mark.parametrize('depth', [18, 50, 8, 21, 0])
def test_bad_depth(depth):
    with pytest.raises(ValueError, match=rf'`depth`.*\(20, 32, 44, 56, 110\), but got {depth}; .*ResNet_CIFAR'):
        ResNetCIFAR6n2(depth)


def test_bad_settings():
    with pytest.raises(ValueError, match='`base_channels` of ResNetCIFAR6n2 to be positive, but got 0'):
        ResNetCIFAR6n2(20, base_channels=0)
    with pytest.raises(ValueError, match='`in_channels`.*but got -1'):
        ResNetCIFAR6n2(20, in_channels=-1)
    with pytest.raises(ValueError, match=r"`shortcut`.*\('A', 'B'\), but got 'C'"):
        ResNetCIFAR6n2(20, shortcut='C')
    for out_indices in ((), (3, ), (-1, )):
        with pytest.raises(ValueError, match=r'`out_indices`.*out of \(0, 1, 2\)'):
            ResNetCIFAR6n2(20, out_indices=out_indices)
