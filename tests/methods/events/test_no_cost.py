"""A solve without events costs nothing of them: the same operators, kept bytes and bits as the method by itself."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import odegrad
from odegrad.checks.conformance import shared_loop_methods
from odegrad.methods.events import function, search
from odegrad.methods.solvers.ends import landing
from odegrad.methods.solvers.loops import base
from odegrad.registry import build_gradient, odeint_solver

DTYPE = torch.float64
Y0 = torch.linspace(-1.0, 1.0, 8, dtype=DTYPE).reshape(4, 2)
TIMES = torch.tensor([0.0, 0.4, 1.0], dtype=DTYPE)


class Operators(TorchDispatchMode):
    """Notes the name of every operator."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.names.append(str(op))
        return op(*args, **(kwargs or {}))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2)).double()


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, t, y):
        return self.net(y)


def measured(solve):
    """Return the operators of a solve and its pull-back, the bytes of each tensor that it keeps, and the gradient."""
    field, kept = Field(), []

    def keep(x):
        kept.append(x.nbytes)
        return x

    with Operators() as seen, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        solve(field)[-1].square().sum().backward()
    return seen.names, kept, [p.grad for p in field.parameters()]


def of_the_method(name, solver):
    return lambda field: build_gradient(name)(field, odeint_solver(solver, 1e-5, 1e-6, {}), Y0, TIMES)


@pytest.mark.parametrize("name", shared_loop_methods())
def test_without_events_nothing_of_them_is_done(name, monkeypatch):
    """The interface adds no operator to the method, and the method none where its code for events is taken away."""
    solver = "alf" if name == "mali" else "dopri5"
    measured(of_the_method(name, solver))  # weights are made once in a process
    operators, kept, bits = measured(of_the_method(name, solver))
    by_interface = measured(
        lambda field: odegrad.odeint(field, Y0, TIMES, rtol=1e-5, atol=1e-6, method=solver, gradient=name)
    )
    for place, names in ((base, ("begin", "landed")), (search, ("EventSearch",)), (function, ("EventFunction",))):
        for each in names:
            monkeypatch.delattr(place, each)
    monkeypatch.setattr(landing, "spacing", None)
    taken_away = measured(of_the_method(name, solver))
    assert operators
    for other, bytes_kept, found in (by_interface, taken_away):
        assert other == operators
        assert bytes_kept == kept
        for x, y in zip(found, bits, strict=True):
            assert torch.equal(x, y)
