"""torchdiffeq's own examples of events as facts, and what is wrong with its events, each with the right value here."""

import math

import pytest
import torch
import torchdiffeq
from torch import nn

import odegrad

DTYPE = torch.float64


def number(x, *, trained=False):
    return torch.tensor(x, dtype=DTYPE, requires_grad=trained)


class Falling(nn.Module):
    """torchdiffeq's bouncing ball: position and velocity in a tuple, gravity 9.8, radius 0.2, a fifth is absorbed."""

    def __init__(self):
        super().__init__()
        self.gravity, self.radius = nn.Parameter(number([9.8])), nn.Parameter(number([0.2]))
        self.absorption = nn.Parameter(number([0.2]))

    def forward(self, t, state):
        position, velocity = state
        return velocity, -self.gravity + torch.zeros_like(position)

    def touches(self, t, state):
        return state[0] - self.radius

    def bounces(self, library, count, *, step_off):
        """Return the times of ``count`` bounces from a height of 10, and what they depend on."""
        height, t = number([10.0], trained=True), number(0.0)
        state, times = (height, number([0.0])), []
        for _ in range(count):
            t, states = library.odeint_event(
                self, state, t, event_fn=self.touches, odeint_interface=library.odeint, rtol=1e-10, atol=1e-12
            )
            position, velocity = (s[-1] for s in states)
            times.append(t.reshape(()))
            state = (position + step_off, -velocity * (1 - self.absorption))
        return times, [height, self.gravity, self.absorption, self.radius]


def gradients(x, of):
    return torch.cat(torch.autograd.grad(x, of, retain_graph=True, materialize_grads=True, allow_unused=True))


def test_bouncing_ball_of_its_examples():
    """Times of five bounces and their gradients, in closed form: t1 = sqrt(2 (h - r) / g), then 2 (1 - a)^k t1 more."""
    field = Falling()
    times, of = field.bounces(odegrad, 5, step_off=0.0)
    height, gravity, absorption, radius = of
    true = (2 * (height - radius) / gravity).sqrt()
    first = true
    for k, t in enumerate(times):
        torch.testing.assert_close(t, true.reshape(()), rtol=1e-12, atol=0.0)
        torch.testing.assert_close(gradients(t, of), gradients(true, of), rtol=1e-11, atol=1e-12)
        true = true + 2 * (1 - absorption) ** (k + 1) * first


def test_torchdiffeq_on_its_own_example():
    """Times and gradients as here by height, gravity and absorption; it must step off the ground, by 1e-7 there."""
    ours, of_ours = Falling().bounces(odegrad, 3, step_off=0.0)
    theirs, of_theirs = Falling().bounces(torchdiffeq, 3, step_off=1e-7)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0.0)
        torch.testing.assert_close(gradients(a, of_ours)[:3], gradients(b, of_theirs)[:3], rtol=1e-5, atol=1e-8)


def test_its_parameters_of_an_event_function_get_no_gradient():
    """Its issue 208: by the radius it is zero, in silence, where dt/dr = -1 / sqrt(2 g (h - r))."""
    found = []
    for library in (odegrad, torchdiffeq):
        field = Falling()
        (t,), of = field.bounces(library, 1, step_off=0.0)
        found.append(float(gradients(t, of)[3]))
    assert found[0] == pytest.approx(-1 / math.sqrt(2 * 9.8 * 9.8), rel=1e-10)
    assert found[1] == 0.0


def test_its_tolerance_of_an_event_is_that_of_the_state():
    """The ball's state is exact at any tolerance, its time is not: it bisects in time down to ``atol``."""

    def falling(t, y):
        return torch.stack([y[1], torch.full_like(y[1], -9.81)])

    def height(t, y):
        return y[0]

    y0, true = torch.tensor([1.0, 0.0], dtype=DTYPE), math.sqrt(2 / 9.81)
    for atol, least in ((1e-3, 1e-5), (1e-6, 1e-9)):
        ours, theirs = (
            abs(float(lib.odeint_event(falling, y0, number(0.0), event_fn=height, atol=atol, rtol=1e-6)[0]) - true)
            for lib in (odegrad, torchdiffeq)
        )
        assert ours < 1e-15
        assert theirs > least
