"""Concat layers against plain layers on an explicitly concatenated input."""

import torch
from torch import nn

from odegrad.datasets.nets.layers import ConcatConv2d, ConcatLinear, ConcatSquashLinear, ConcatSquashNet
from odegrad.datasets.sources.seeding import generator, seeded_module

CPU = torch.device("cpu")
T = torch.tensor(0.7, dtype=torch.float64)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(11))


def test_concat_linear_is_a_linear_layer_on_time_and_input() -> None:
    layer = seeded_module(lambda: ConcatLinear(3, 2), generator(0), CPU, torch.float64)
    x = normal(5, 3)
    extended = torch.cat([torch.full((5, 1), 0.7, dtype=torch.float64), x], dim=1)
    expected = extended @ layer.linear.weight.T + layer.linear.bias
    torch.testing.assert_close(layer(T, x), expected, rtol=0, atol=1e-14)


def test_concat_conv_is_a_convolution_on_a_time_channel_and_input() -> None:
    layer = seeded_module(lambda: ConcatConv2d(2, 3), generator(0), CPU, torch.float64)
    x = normal(4, 2, 5, 6)
    extended = torch.cat([torch.full((4, 1, 5, 6), 0.7, dtype=torch.float64), x], dim=1)
    expected = nn.functional.conv2d(extended, layer.conv.weight, layer.conv.bias, padding=1)
    assert expected.shape == (4, 3, 5, 6)
    torch.testing.assert_close(layer(T, x), expected, rtol=0, atol=1e-14)


def test_concat_squash_follows_its_formula() -> None:
    layer = seeded_module(lambda: ConcatSquashLinear(3, 2), generator(0), CPU, torch.float64)
    x, t = normal(5, 3), 0.7
    W, b = layer.linear.weight.detach().numpy(), layer.linear.bias.detach().numpy()
    w_g, b_g = layer.gate.weight.detach().numpy()[:, 0], layer.gate.bias.detach().numpy()
    w_b = layer.shift.weight.detach().numpy()[:, 0]
    expected = (x.numpy() @ W.T + b) / (1 + torch.exp(torch.from_numpy(-(w_g * t + b_g))).numpy()) + w_b * t
    torch.testing.assert_close(layer(T, x).detach(), torch.from_numpy(expected), rtol=0, atol=1e-14)


def test_tanh_net_without_hidden_layers_is_one_concat_squash_layer() -> None:
    net = seeded_module(lambda: ConcatSquashNet(3, ()), generator(0), CPU, torch.float64)
    x = normal(5, 3)
    torch.testing.assert_close(net(T, x), net.layers[0](T, x), rtol=0, atol=0)


def test_tanh_net_puts_tanh_between_its_layers() -> None:
    net = seeded_module(lambda: ConcatSquashNet(2, (4, 3)), generator(0), CPU, torch.float64)
    x = normal(5, 2)
    a, b, c = net.layers
    torch.testing.assert_close(net(T, x), c(T, torch.tanh(b(T, torch.tanh(a(T, x))))), rtol=0, atol=0)


def test_time_has_a_gradient() -> None:
    layer = seeded_module(lambda: ConcatSquashLinear(3, 2), generator(0), CPU, torch.float64)
    t = T.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: layer(s, normal(2, 3)), (t,))
