"""Fields whose costate is smooth where they are not: a costate's own steps would be too long for the parameters."""

import math

import pytest
import torch
from torch import nn

import odegrad
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

FROM_A_TRAJECTORY = ("interpolation", "interpolation_dense", "gauss_adjoint")
NODES = {"interpolation": {"num_nodes": 48}, "gauss_adjoint": {"num_nodes": 48}}


class _Forced(nn.Module):
    """``y' = k sin(w t) - y``: ``a' = a``, and ``dy(T)/dk = (sin wT - w cos wT + w e^-T) / (1 + w^2)`` from zero."""

    sample_time = True
    times: tuple[float, ...] = (0.0, 1.0)
    w = 21.0

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, t, y):
        return self.k * torch.sin(self.w * t) - y

    @property
    def true(self):
        return (math.sin(self.w) - self.w * math.cos(self.w) + self.w * math.exp(-1)) / (1 + self.w**2)


class _Switched(_Forced):
    """``y' = k - y`` after t = 0.5, which is an output, and ``-y`` before: ``dy(1)/dk = 1 - e^-0.5``."""

    times = (0.0, 0.5, 1.0)
    true = 1 - math.exp(-0.5)

    def forward(self, t, y):
        return torch.where(torch.as_tensor(t) > 0.5, self.k, 0.0) - y


def _error(field, gradient, tol, **options):
    chosen = {"gradient_options": NODES[gradient]} if gradient in NODES else {}
    times = torch.tensor(field.times, dtype=torch.float64)
    y0 = torch.zeros(2, 1, dtype=torch.float64)
    ys = odegrad.odeint(field, y0, times, rtol=tol, atol=tol, gradient=gradient, **chosen, **options)
    (found,) = torch.autograd.grad(ys[-1].mean(), field.k)
    return abs(float(found) / field.true - 1)


@pytest.mark.filterwarnings("ignore:the state that the backward pass used")  # at the switch, where it has a kink
@pytest.mark.parametrize("field", [_Forced, _Switched])
@pytest.mark.parametrize("solver", ["dopri5", "bosh3", "kencarp4", "per_sample"])
@pytest.mark.parametrize("gradient", FROM_A_TRAJECTORY)
def test_the_integral_of_f_judges_the_backward_steps(gradient, solver, field):
    """By the costate alone they were as long as the interval, and the gradient off by a half with no word."""
    options = {"options": {"batch": solver}} if solver == "per_sample" else {"method": solver}
    assert _error(field(), gradient, 1e-5, **options) < 1e-3


class _Heard:
    """Counts the accepted and rejected steps of both ways."""

    def __init__(self):
        self.steps = []

    def accepted(self, t, h):
        self.steps.append(h)

    def rejected(self, t, h):
        self.steps.append(h)


@pytest.mark.parametrize("gradient", FROM_A_TRAJECTORY)
def test_where_the_costate_is_as_rough_it_alone_chooses_the_steps(gradient, monkeypatch):
    """``y' = A y`` and ``a' = -A^T a`` oscillate alike: an integral held to ten tolerances asks for no step."""

    class Rotation(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.tensor([[-0.1, 5.0], [-5.0, -0.1]], dtype=torch.float64))

        def forward(self, t, y):
            return y @ self.a.T

    def steps():
        heard, field = _Heard(), Rotation()
        solver = make_solver("dopri5", rtol=1e-5, atol=1e-5).observed_by(heard)
        method = build_gradient(gradient, NODES.get(gradient, {}))
        y0 = torch.ones(1, 2, dtype=torch.float64)
        method(field, solver, y0, torch.tensor([0.0, 2.0], dtype=torch.float64))[-1].sum().backward()
        return heard.steps

    judged = steps()
    monkeypatch.setattr("odegrad.methods.backward.costate.INTEGRAL_OFF", math.inf)
    assert judged == steps()
