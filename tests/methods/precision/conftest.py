"""Every method that takes a field in a low type, the net that they solve, and what a gradient of it is."""

import contextlib
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from odegrad.checks.conformance import shared_loop_methods
from odegrad.contracts import equivalent_solver
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

ROUNDOFF = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
TAKING = [name for name in shared_loop_methods() if name != "forward_sensitivity"]
EXACT = ["naive", "anode", "aca", "revolve", "symplectic_adjoint"]
"""Those whose steps and states are naive's to the bit."""


class Net(nn.Module):
    """``tanh`` net 4-16-16-4, drawn from a seed."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.middle, self.last = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, t, y):
        return self.last(torch.tanh(self.middle(torch.tanh(self.first(y)))))


def start(dtype=torch.float32):
    """Return the initial state ``[8, 4]``."""
    return torch.linspace(-1.0, 1.0, 32, dtype=torch.float64).reshape(8, 4).to(dtype).requires_grad_()


def under(dtype):
    """Return the autocast context of a caller; None for none."""
    return contextlib.nullcontext() if dtype is None else torch.autocast("cpu", dtype)


@dataclass(frozen=True)
class Low:
    """A gradient method with a field in a low type, or high where ``precision`` is empty."""

    name: str
    precision: str
    steps: int = 4
    options: tuple[tuple[str, object], ...] = ()

    @property
    def method(self):
        return build_gradient(self.name)

    @property
    def solver(self):
        name = "alf" if self.name == "mali" else "rk4"
        return make_solver(name, num_steps=self.steps, precision=self.precision, **dict(self.options))

    def naive(self):
        """Return naive backprop on the steps that the method takes."""
        return _Given(Naive(), equivalent_solver(self.method, self.solver))

    def __call__(self, field, y0, ts):
        return self.method(field, self.solver, y0, ts)


@dataclass(frozen=True)
class _Given:
    method: object
    solver: object

    def __call__(self, field, y0, ts):
        return self.method(field, self.solver, y0, ts)


def pulled(solve, field=None, dtype=torch.float32, factor=1.0, solved_under=None, pulled_under=None):
    """Return the end and the gradient by start and parameters of ``factor`` times a loss, in float64, divided by it."""
    field, y0 = (field or Net().to(dtype)), start(dtype)
    with under(solved_under):
        ys = solve(field, y0, torch.tensor([0.0, 0.4, 1.0], dtype=dtype))
    inputs = [y0, *field.parameters()]
    with under(pulled_under):
        grads = torch.autograd.grad(factor * ys[1:].pow(2).sum(), inputs, allow_unused=True, materialize_grads=True)
    return ys[-1].detach().double(), torch.cat([g.reshape(-1) for g in grads]).double() / factor


def off(found, true):
    """Return the distance relative to the size."""
    return float((found - true).norm() / true.norm())


@pytest.fixture(params=ROUNDOFF)
def precision(request):
    """Either low type."""
    return request.param


@pytest.fixture(params=TAKING)
def low(request, precision):
    """Every method that takes a low field, in either low type."""
    return Low(request.param, precision)


@pytest.fixture(params=TAKING)
def float16(request):
    """Every method that takes a low field, in float16."""
    return Low(request.param, "float16")


@pytest.fixture
def tools():
    """Return what the tests of this folder share."""
    return Tools()


class Tools:
    """The functions and classes above, as one fixture: test files cannot import each other."""

    Net, Low, EXACT, TAKING, ROUNDOFF = Net, Low, EXACT, TAKING, ROUNDOFF
    start = staticmethod(start)
    pulled = staticmethod(pulled)
    off = staticmethod(off)
    under = staticmethod(under)
