"""What the curvature tap sees of fields that are not plain chains: every cotangent against a perturbed field.

The oracle adds a zero tensor to a layer's output inside the field and differentiates with respect to it.
"""

import logging

import pytest
import torch
from torch import nn

from odegrad.datasets.nets.layers import ConcatConv2d, ConcatLinear, ConcatSquashLinear
from odegrad.errors import UsageError
from odegrad.methods.optimizers.snopt.layers import cotangent_rows, input_rows
from odegrad.methods.optimizers.snopt.optimizer import SNOpt
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

F64 = torch.float64
ROWS, WIDTH = 6, 4


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


class _Net(nn.Module):
    """``second(act(first(y)))``; ``zero`` is added to the output of ``first``."""

    def __init__(self, act=None, bias=True):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH, bias).double(), nn.Linear(WIDTH, WIDTH).double()
        for i, p in enumerate(self.parameters()):
            p.data = 0.5 * _randn(*p.shape, seed=10 + i)
        self.act = nn.Tanh() if act is None else act
        self.zero = None

    def forward(self, t, y):
        h = self.first(y)
        h = h if self.zero is None else h + self.zero
        return self.second(self.act(h))


class _Flow(nn.Module):
    """A velocity and its exact divergence, which runs autograd inside the field."""

    def __init__(self):
        super().__init__()
        self.net = _Net()

    def forward(self, t, state):
        with torch.enable_grad():
            z = state[0].detach().requires_grad_()
            v = self.net(t, z)
            trace = sum(torch.autograd.grad(v[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(WIDTH))
        return v, -trace


def _output_factor(net, outputs):
    """Return ``E_batch[g g^T]`` of ``net.first`` for the scalar that ``outputs()`` computes."""
    net.zero = torch.zeros(ROWS, WIDTH, dtype=F64, requires_grad=True)
    (g,) = torch.autograd.grad(outputs(), net.zero)
    net.zero = None
    return ROWS * g.T @ g


def _tap(model, field):
    return SNOpt(model, [field], _sgd).next_tap()


@pytest.mark.parametrize("act", [nn.Tanh(), nn.ReLU(), nn.ReLU(inplace=True)], ids=["tanh", "relu", "relu in place"])
def test_cotangent_is_that_of_the_layers_own_output(act):
    """An activation in place overwrites the output; the cotangent is still the one before the activation."""
    net, y, a = _Net(act), _randn(ROWS, WIDTH), _randn(ROWS, WIDTH, seed=1)
    tap = _tap(net, net)
    tap.observe(net, 0.0, y, a, 1.0)

    def product():
        return (net(0.0, y) * a).sum()

    expected = _output_factor(net, product)
    assert torch.allclose(tap.sums["first"].output_factor, expected, rtol=1e-12, atol=1e-14)


def test_a_layer_outside_with_an_activation_in_place():
    """The same for layers outside of the ODE, whose cotangents come from the training's own backward pass."""
    model = nn.ModuleDict({"stem": nn.Linear(WIDTH, WIDTH).double(), "field": _Net()})
    optimizer = SNOpt(model, [model["field"]], _sgd, full_precond=True)
    tap = optimizer.next_tap()
    x, phi = _randn(ROWS, WIDTH), _randn(ROWS, WIDTH, seed=1)
    (nn.functional.relu(model["stem"](x), inplace=True) * phi).sum().backward()
    g = phi * (model["stem"](x) > 0)
    assert torch.allclose(tap.sums["stem"].output_factor, ROWS * g.T @ g, rtol=1e-12)


def test_divergence_inside_the_field_is_part_of_the_cotangent_once():
    """With a costate on the log-density too, g is the derivative of the whole product f . a, taken once."""
    flow, z = _Flow(), _randn(ROWS, WIDTH)
    a, b = _randn(ROWS, WIDTH, seed=1), _randn(ROWS, seed=2)
    tap = _tap(flow, flow)
    tap.observe(flow, 0.0, (z, torch.zeros(ROWS, dtype=F64)), (a, b), 1.0)

    def product():
        v, change = flow(0.0, (z, None))
        return (v * a).sum() + (change * b).sum()

    expected = _output_factor(flow.net, product)
    assert torch.allclose(tap.sums["net.first"].output_factor, expected, rtol=1e-12, atol=1e-14)
    ones = torch.cat([z, torch.ones(ROWS, 1, dtype=F64)], 1)
    assert torch.allclose(tap.sums["net.first"].input_factor, ones.T @ ones / ROWS, rtol=1e-12)


def test_layers_that_see_the_time():
    """Concat-time: the time is the first input; concat-squash: gate and shift see one row, the linear layer a batch."""

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.concat, self.squash = ConcatLinear(WIDTH, WIDTH), ConcatSquashLinear(WIDTH, WIDTH)

        def forward(self, t, y):
            return self.squash(t, self.concat(t, y))

    field, y, a = Field().double(), _randn(ROWS, WIDTH), _randn(ROWS, WIDTH, seed=1) / ROWS
    for i, p in enumerate(field.parameters()):
        p.data = 0.5 * _randn(*p.shape, seed=20 + i)
    tap = _tap(field, field)
    tap.observe(field, 0.4, y, a, 1.0)
    time, squash = torch.full((1, 1), 0.4, dtype=F64), field.squash
    with torch.no_grad():
        rows = torch.cat([torch.full((ROWS, 1), 0.4, dtype=F64), y, torch.ones(ROWS, 1, dtype=F64)], 1)
        h = field.concat(time[0, 0], y)
        gate = torch.sigmoid(squash.gate(time))
        g = a * gate
        of_gate = (a * squash.linear(h)).sum(0, keepdim=True) * gate * (1 - gate)
        pushed = g @ squash.linear.weight
    expected = {
        "concat.linear": (rows.T @ rows / ROWS, ROWS * pushed.T @ pushed),
        "squash.linear": (_with_one(h).T @ _with_one(h) / ROWS, ROWS * g.T @ g),
        "squash.gate": (_with_one(time).T @ _with_one(time), of_gate.T @ of_gate),
        "squash.shift": (time.T @ time, a.sum(0, keepdim=True).T @ a.sum(0, keepdim=True)),
    }
    assert set(tap.sums) == set(expected)
    for name, (of_input, of_output) in expected.items():
        assert torch.allclose(tap.sums[name].input_factor, of_input, rtol=1e-12)
        assert torch.allclose(tap.sums[name].output_factor, of_output, rtol=1e-12)


def test_convolution_that_sees_the_time():
    """Concat-time: the time is the first channel, padded with zeros like the others."""

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = ConcatConv2d(2, 2)

        def forward(self, t, y):
            return self.layer(t, y)

    field, y, a = Field().double(), _randn(ROWS, 2, 5, 5), _randn(ROWS, 2, 5, 5, seed=1) / ROWS
    tap = _tap(field, field)
    tap.observe(field, 0.4, y, a, 1.0)
    image = torch.cat([torch.full((ROWS, 1, 5, 5), 0.4, dtype=F64), y], 1)
    patches = nn.functional.unfold(image, 3, padding=1).mT.unflatten(2, (3, 9)).mT.reshape(-1, 27)
    of_output = ROWS * a.flatten(2).mT.reshape(-1, 2)
    (total,) = tap.sums.values()
    assert torch.allclose(total.input_factor, _with_one(patches).T @ _with_one(patches) / ROWS, rtol=1e-12)
    assert torch.allclose(total.output_factor, of_output.T @ of_output / (25 * ROWS), rtol=1e-12)


def _with_one(rows):
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1)


def test_a_layer_used_twice_adds_both_uses():
    """Both factors are sums over the uses."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH, bias=False).double()

        def forward(self, t, y):
            return self.layer(torch.tanh(self.layer(input=y)))

    field, y, a = Twice(), _randn(ROWS, WIDTH), _randn(ROWS, WIDTH, seed=1)
    tap = _tap(field, field)
    tap.observe(field, 0.0, y, a, 1.0)
    inner = torch.tanh(field.layer(y)).detach()
    g = (a @ field.layer.weight.detach()) * (1 - inner**2)
    assert torch.allclose(tap.sums["layer"].input_factor, (y.T @ y + inner.T @ inner) / ROWS, rtol=1e-12)
    assert torch.allclose(tap.sums["layer"].output_factor, ROWS * (a.T @ a + g.T @ g), rtol=1e-12)


def test_buffers_that_the_training_graph_saved_are_not_written_to():
    """S1: a buffer read by field and stem alike survives the tap, in value and in autograd's eyes."""

    class Scaled(_Net):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", _randn(WIDTH, seed=3))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, t, y):
            self.calls = self.calls + 1
            return super().forward(t, y) * self.scale

    field, stem = Scaled(), nn.Linear(WIDTH, WIDTH).double()
    tap = _tap(field, field)
    ys = build_gradient("adjoint").with_tap(tap)(
        field, make_solver("rk4"), stem(_randn(ROWS, WIDTH)) * field.scale, torch.tensor([0.0, 1.0], dtype=F64)
    )
    ys[-1].square().mean().backward()
    assert stem.weight.grad.isfinite().all()
    calls = field.calls.clone()
    tap.observe(field, 0.0, _randn(ROWS, WIDTH), _randn(ROWS, WIDTH, seed=1), 1.0)
    assert torch.equal(field.calls, calls)


def test_convolution_on_a_single_image():
    """An image without a batch dimension is a batch of one."""
    conv, x = nn.Conv2d(2, 3, 3, padding=1).double(), _randn(2, 5, 5)
    assert torch.equal(input_rows(conv, x), input_rows(conv, x[None]))
    assert torch.equal(cotangent_rows(conv, conv(x)), cotangent_rows(conv, conv(x)[None]))


def test_frozen_bias_leaves_the_weight_preconditioned():
    """A bias that is not trained appends no 1."""
    net, plain = _Net(), _Net(bias=False)
    net.first.bias.requires_grad_(False)
    assert torch.equal(input_rows(net.first, _randn(3, WIDTH)), input_rows(plain.first, _randn(3, WIDTH)))
    optimizer, y, a = SNOpt(net, [net], _sgd), _randn(ROWS, WIDTH), _randn(ROWS, WIDTH, seed=1)
    optimizer.next_tap().observe(net, 0.0, y, a, 1.0)
    (net(0.0, y) * a).sum().backward()
    total, gradient, before = optimizer._sums["first"], net.first.weight.grad, net.first.weight.detach().clone()
    optimizer.step()
    dense = torch.kron(total.input_factor, total.output_factor) + optimizer.eps * torch.eye(WIDTH**2, dtype=F64)
    update = torch.linalg.solve(dense, gradient.T.reshape(-1)).reshape(WIDTH, WIDTH).T
    assert torch.allclose(net.first.weight.detach(), before - 0.1 * update, rtol=1e-10, atol=1e-12)


def _tie(net):
    net.tied = nn.Linear(WIDTH, WIDTH).double()
    net.tied.weight = net.second.weight


def _normalise(net):
    torch.nn.utils.parametrizations.weight_norm(net.second)


def _transpose(net):
    net.second = nn.ConvTranspose2d(WIDTH, WIDTH, 1).double()


@pytest.mark.parametrize("change", [_tie, _normalise, _transpose])
def test_what_cannot_be_preconditioned_is_named_and_left_alone(change, caplog):
    """Layers that share a parameter, have a computed weight, or are of another kind: left alone, and named once."""
    net = _Net()
    change(net)
    with caplog.at_level(logging.WARNING, logger="odegrad"):
        optimizer = SNOpt(net, [net], _sgd)
    assert set(optimizer.layers) == {"first"}
    (message,) = [r.getMessage() for r in caplog.records]
    assert "second" in message
    assert "first" not in message


def test_a_field_that_is_not_in_the_model_is_refused():
    """Its parameters would never move."""
    with pytest.raises(UsageError, match="fields: expected vector fields inside of model"):
        SNOpt(nn.Linear(2, 2), [_Net()], _sgd)
