"""Compiled steps give the eager gradients but for rounding, and refuse fields that compiling would change."""

import os
import shutil

import pytest
import torch
from torch import nn

import odegrad
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.solvers.compiled import StepCompiler, compile_seconds
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.solver import make_solver
from odegrad.methods.solvers.tableaus import TABLEAUS
from odegrad.registry import build_gradient
from odegrad.states import Layout

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None and shutil.which("g++") is None, reason="needs a C++ compiler"
)


class Net(nn.Module):
    """A tanh net that knows the time."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        return self.b(torch.tanh(self.a(torch.cat([y, t.expand(len(y), 1)], 1))))


class Flow(Net):
    """A flow with the exact divergence, by calls of autograd inside."""

    def forward(self, t, state):
        z, _ = state
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            dz = super().forward(t, z)
            trace = sum(torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(3))
        return dz, -trace


def _gradients(field, y0, ts, name, compiled, **options):
    solver = make_solver(options.pop("solver", "dopri5"), compile=compiled, **options)
    tensors = y0 if isinstance(y0, tuple) else (y0,)
    ys = build_gradient(name)(field, solver, y0, ts)
    loss = sum((y**2).sum() for y in (ys if isinstance(ys, tuple) else (ys,)))
    return torch.autograd.grad(loss, [*tensors, *field.parameters()], allow_unused=True)


def _assert_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.fixture(scope="module")
def net():
    """Return a net in float64, whose step is compiled once for all tests."""
    return Net().double()


@needs_compiler
@pytest.mark.parametrize("outputs", ["step_ends", "dense"])
def test_gradients_are_the_eager_ones(net, outputs):
    """Adaptive steps, several outputs, float64: the same grid, the same numbers."""
    field, y0 = net, torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    ts = torch.linspace(0.0, 1.5, 4, dtype=torch.float64)
    for name in (
        "aca",
        "anode",
        "revolve",
        "symplectic_adjoint",
        "adjoint",
        "interpolation_dense",
        "forward_sensitivity",
    ):
        options = {"rtol": 1e-6, "atol": 1e-6, "outputs": outputs}
        expected = _gradients(field, y0, ts, name, compiled=False, **options)
        _assert_close(_gradients(field, y0, ts, name, compiled=True, **options), expected)


@needs_compiler
def test_a_field_that_differentiates_inside_on_fixed_steps():
    field, z0 = Flow().double(), torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    y0, ts = (z0, torch.zeros(5, dtype=torch.float64, requires_grad=True)), torch.tensor([0.0, 1.0]).double()
    options = {"solver": "midpoint", "num_steps": 3}
    expected = _gradients(field, y0, ts, "aca", compiled=False, **options)
    _assert_close(_gradients(field, y0, ts, "aca", compiled=True, **options), expected)


@needs_compiler
def test_steps_are_compiled_once_and_follow_the_parameters():
    """A second solve compiles nothing and calls no Python of the field but for the start; new parameters count."""
    field, y0, ts = Net(), torch.randn(5, 3), torch.tensor([0.0, 1.0])
    solve = {"rtol": 1e-4, "atol": 1e-4, "method": "bosh3", "gradient": "aca", "options": {"compile": True}}
    odegrad.odeint(field, y0, ts, **solve)
    spent, calls = compile_seconds(field.modules()), field.calls
    assert spent > 0.0
    with torch.no_grad():
        field.b.weight.mul_(2.0)
    found = odegrad.odeint(field, y0, ts, **solve)
    assert compile_seconds(field.modules()) == spent
    assert field.calls == calls + 2  # the first stage and the trial that choose the first step
    torch.testing.assert_close(found, odegrad.odeint(field, y0, ts, **solve | {"options": {}}), rtol=1e-5, atol=1e-6)


class Dropping(Net):
    def forward(self, t, y):
        return super().forward(t, torch.dropout(y, 0.5, train=True))


class Normalising(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, t, y):
        return super().forward(t, self.norm(y))


class Branching(Net):
    def forward(self, t, y):
        return super().forward(t, y if float(t) < 0.5 else -y)


class Closing(Net):
    def forward(self, t, y):
        return super().forward(t, y) * OUTSIDE


OUTSIDE = torch.ones(3)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Dropping, "draws random numbers"),
        (Normalising, "changes a buffer"),
        (Branching, "cannot be traced"),
        (Closing, "must be a parameter or a buffer"),
    ],
)
def test_fields_that_compiling_would_change_are_refused(kind, says):
    with pytest.raises(UnsupportedError, match=says):
        _gradients(kind(), torch.randn(5, 3, requires_grad=True), torch.tensor([0.0, 1.0]), "aca", True, rtol=1e-3)


def test_a_plain_function_and_other_schemes_are_refused():
    solve = {"rtol": 1e-3, "options": {"compile": True}}
    with pytest.raises(UnsupportedError, match="wrap the function"):
        StepCompiler(FlatField(lambda _t, y: -y, Layout.of(torch.ones(2))), TABLEAUS["euler"])
    with pytest.raises(UnsupportedError, match="leave out compile, or take aca"):
        odegrad.odeint(Net(), torch.ones(1, 3), torch.tensor([0.0, 1.0]), **solve)
    with pytest.raises(UsageError, match="compile: solver alf is no explicit Runge-Kutta method"):
        make_solver("alf", compile=True)
    with pytest.raises(UsageError, match="compile: expected True or False, got 'yes'"):
        make_solver("dopri5", compile="yes")
