"""Events against closed forms and finite differences, by every gradient method that can end at one."""

import dataclasses
import math

import pytest
import torch
from torch import nn

import odegrad
from odegrad.checks.conformance import shared_loop_methods
from odegrad.registry import build_gradient

DTYPE = torch.float64
REFUSE = {"mali", "reversible_rk"}
"""Without dense output an event inside of a step cannot be seen."""
METHODS = sorted(set(shared_loop_methods()) - REFUSE)


def number(x, *, trained=False):
    return torch.tensor(x, dtype=DTYPE, requires_grad=trained)


def enough_nodes(name):
    """Return the options of methods that keep the state at nodes, 16 of which follow 1e-6."""
    known = {f.name for f in dataclasses.fields(build_gradient(name))}
    return {"num_nodes": 32} if "num_nodes" in known else None


def gradients(x, of):
    return torch.stack(torch.autograd.grad(x, of, retain_graph=True, materialize_grads=True, allow_unused=True))


class Ball(nn.Module):
    """Height and velocity in free fall."""

    def __init__(self):
        super().__init__()
        self.g = nn.Parameter(number(9.81))

    def forward(self, t, y):
        return torch.stack([y[1], -self.g])


def height(t, y):
    return y[0]


@pytest.mark.parametrize("name", METHODS)
def test_bouncing_ball(name):
    """E1: times of three bounces and the state at t = 2, and their gradients by height, restitution and gravity."""
    field, h, e = Ball(), number(1.0, trained=True), number(0.8, trained=True)
    of = [h, e, field.g]
    t, y, times = number(0.0), torch.stack([h, number(0.0)]), []
    for _ in range(3):
        t, ys = odegrad.odeint_event(field, y, t, event_fn=height, gradient=name)
        times.append(t)
        y = ys[1] * torch.stack([number(1.0), -e])
    (_, last) = odegrad.odeint(field, y, torch.stack([t, number(2.0)]), gradient=name)

    v = (2 * h * field.g).sqrt()
    true, t = [], v / field.g
    for _ in range(3):
        true.append(t)
        v = e * v
        t = t + 2 * v / field.g
    left = 2.0 - true[-1]
    end = torch.stack([v * left - field.g * left**2 / 2, v - field.g * left])
    for found, known in zip([*times, *last], [*true, *end], strict=True):
        torch.testing.assert_close(found, known, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradients(found, of), gradients(known, of), rtol=1e-12, atol=1e-12)


class Neuron(nn.Module):
    """A leaky integrator of the current I that fires where its potential reaches 1."""

    def __init__(self):
        super().__init__()
        self.current, self.tau = nn.Parameter(number(1.5)), nn.Parameter(number(0.7))

    def forward(self, t, y):
        return (self.current - y) / self.tau

    def fires(self, t, y):
        return y[0, 0] - 1.0


@pytest.mark.parametrize("rtol", [1e-6, 1e-9])
@pytest.mark.parametrize("name", METHODS)
def test_integrate_and_fire(name, rtol):
    """E3: two periods of tau ln(I / (I - 1)), whose derivatives are -tau / (I (I - 1)) and the logarithm."""
    field, t = Neuron(), number(0.0)
    for _ in range(2):
        t, ys = odegrad.odeint_event(
            field, torch.zeros(1, 1, dtype=DTYPE), t, event_fn=field.fires, direction=1,
            gradient=name, gradient_options=enough_nodes(name), rtol=rtol, atol=rtol,
        )  # fmt: skip
        assert abs(float(ys[1].detach()) - 1.0) < 1e-14
    found = gradients(t, [field.current, field.tau])
    logarithm = math.log(3.0)
    assert math.isclose(float(t.detach()), 2 * 0.7 * logarithm, rel_tol=10 * rtol)
    torch.testing.assert_close(found, number([-2 * 0.7 / 0.75, 2 * logarithm]), rtol=10 * rtol, atol=0.0)


class Bent(nn.Module):
    """A nonlinear field that depends on time."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(number(0.8))

    def forward(self, t, y):
        a, b = y
        return torch.stack([b + 0.3 * torch.sin(t) * a, -torch.sin(a) * self.p + 0.1 * t])


class Surface(nn.Module):
    """A nonlinear event function of time, state and a parameter."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(number(0.3))

    def forward(self, t, y):
        return y[0] * (1 + 0.2 * y[1]) - self.level * torch.cos(0.5 * t)


def reset(t, y, k):
    return torch.stack([k * torch.tanh(y[0]) + 0.2 * t, y[1] ** 2 - 0.3 * t * y[0] - k])


def through_an_event(values, name, field, surface):
    """Return a loss of the state behind an event with a reset, and the tensors ``values`` that it depends on."""
    y0, t0, k, p, level = (v.clone().requires_grad_() for v in values)
    with torch.no_grad():
        field.p.copy_(p)
        surface.level.copy_(level)
    by = {**TIGHT, "gradient": name, "gradient_options": enough_nodes(name)}
    t, ys = odegrad.odeint_event(field, y0, t0, event_fn=surface, **by)
    (_, last) = odegrad.odeint(field, reset(t, ys[1], k), torch.stack([t, number(3.1)]), **by)
    return last[0] ** 2 + torch.sin(last[1]) + 0.5 * t, (y0, t0, k, field.p, surface.level)


TIGHT = {"rtol": 1e-12, "atol": 1e-13}
VALUES = (number([1.2, -0.4]), number(0.1), number(0.9), number(0.8), number(0.3))


@pytest.fixture(scope="module")
def differences():
    """Central differences of the loss by every number that it depends on."""
    out = []
    for i, value in enumerate(VALUES):
        for j in range(value.numel()):
            ends = []
            for sign in (1, -1):
                moved = [v.clone() for v in VALUES]
                moved[i].view(-1)[j] += sign * 1e-5
                with torch.no_grad():
                    ends.append(float(through_an_event(moved, "naive", Bent(), Surface())[0]))
            out.append((ends[0] - ends[1]) / 2e-5)
    return torch.tensor(out, dtype=DTYPE)


@pytest.mark.parametrize("name", METHODS)
def test_saltation_is_that_of_finite_differences(name, differences):
    """E5: nonlinear g and reset that depend on time and parameters; the derivatives are those at the state before."""
    loss, of = through_an_event(VALUES, name, Bent(), Surface())
    found = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, of)])
    torch.testing.assert_close(found, differences, rtol=1e-6, atol=1e-8)
