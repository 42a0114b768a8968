"""Every method on the shared loop, with a solver that it takes; the small net that they solve."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from odegrad.checks.conformance import shared_loop_methods
from odegrad.contracts import equivalent_solver
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

TIMES = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)


@dataclass(frozen=True)
class Solving:
    """A method and its solver."""

    method: object
    solver: object

    @property
    def near(self):
        """Return how far its gradient may be from naive's on the same steps, relative to its size."""
        return 1e-9 if self.method.traits.exact else 1e-3

    @property
    def calls_again(self):
        """Return whether its backward pass calls the field."""
        return self.method.traits.state_from not in ("graph", "columns")

    def __call__(self, field, y0, ts=TIMES):
        """Solve."""
        return self.method(field, self.solver, y0, ts)

    def naive(self):
        """Return naive backprop on the steps that the method takes."""
        return Solving(Naive(), equivalent_solver(self.method, self.solver))


@pytest.fixture(params=shared_loop_methods())
def solving(request):
    """Every method on the shared loop."""
    method = build_gradient(request.param)
    fixed = [make_solver(name, num_steps=4) for name in ("rk4", "alf")]
    return Solving(method, next(s for s in fixed if method.refuses(s) is None))


class Net(nn.Module):
    """``tanh`` net 3-6-3 in float64, drawn from a seed."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(3, 6).double(), nn.Linear(6, 3).double()

    def forward(self, t, y):
        return self.last(torch.tanh(self.first(y)))


@pytest.fixture
def net():
    """Return the class of the small net."""
    return Net


@pytest.fixture
def start():
    """Return what makes an initial state ``[4, 3]``, the same at every call."""
    return lambda: torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(4, 3).requires_grad_()


@pytest.fixture
def apart():
    """Return the relative distance of gradients, lists of tensors; None stands for zeros."""

    def distance(found, true):
        pairs = [(torch.zeros_like(b) if a is None else a, b) for a, b in zip(found, true, strict=True)]
        a, b = (torch.cat([p.detach().reshape(-1) for p in side]) for side in zip(*pairs, strict=True))
        return float((a - b).norm() / b.norm())

    return distance
