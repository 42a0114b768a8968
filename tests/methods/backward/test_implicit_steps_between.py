"""What changes between forward and backward pass of implicit steps: hooks act once, changed parameters are refused."""

import pytest
import torch
from torch import nn

from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient, default_gradients

SOLVERS = {name: make_solver(name, num_steps=4, rtol=1e-4) for name in ("implicit_midpoint", "kencarp4")}
METHODS = [
    (method, solver)
    for solver, made in SOLVERS.items()
    for method in (*default_gradients(), "forward_sensitivity")
    if build_gradient(method).refuses(made) is None
]


class _Decay(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor([3.0, 1.0], dtype=torch.float64))

    def forward(self, t, y):
        return -self.rate * y * (1.0 + t)


def _loss(method, solver, field):
    y0 = torch.ones(2, 2, dtype=torch.float64)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return build_gradient(method)(field, SOLVERS[solver], y0, ts)[-1].square().sum()


def test_every_kind_of_pull_back_is_here():
    methods = {method for method, _ in METHODS}
    assert {"naive", "aca", "anode", "revolve", "symplectic_adjoint", "interpolation_dense"} <= methods


@pytest.mark.parametrize(("method", "solver"), METHODS)
def test_a_hook_acts_once_on_the_whole_gradient(method, solver):
    bare, hooked, calls = _Decay(), _Decay(), []
    hooked.rate.register_hook(lambda g: calls.append(1) or 0.1 * g)
    for field in (bare, hooked):
        _loss(method, solver, field).backward()
    assert len(calls) == 1
    assert torch.allclose(hooked.rate.grad, 0.1 * bare.rate.grad, rtol=1e-12)


@pytest.mark.parametrize(("method", "solver"), METHODS)
def test_a_parameter_that_was_changed_in_place_is_refused(method, solver):
    field = _Decay()
    loss = _loss(method, solver, field)
    with torch.no_grad():
        field.rate.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
