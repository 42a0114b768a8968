"""A trained tensor that nobody told of, and that the field comes to depend on after its first call."""

import pytest
import torch

from odegrad.checks.conformance import shared_loop_methods
from odegrad.errors import UsageError
from odegrad.methods.fields.closures import BETWEEN, Known
from odegrad.methods.regularisers.chosen import Regularisers
from odegrad.methods.regularisers.regularised import RegularisedSolve
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

ENTERS = {
    "beside the rest": lambda late, w, c, dy: dy + late if late is not None else dy,
    "for a constant": lambda late, w, c, dy: dy + (c if late is None else late),
    "for a parameter": lambda late, w, c, dy: dy * (w if late is None else late),
}
"""How: with a node of its own, or in the place of another tensor, which makes no more nodes than before."""


def _field(net, enters, when):
    outside = torch.full((3,), 0.7, dtype=torch.float64, requires_grad=True)

    class Late(net):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
            self.calls = 0

        def forward(self, t, y):
            self.calls += 1
            late = outside if when(self.calls, float(t.detach())) else None
            return ENTERS[enters](late, self.weight, torch.ones(3, dtype=torch.float64), super().forward(t, y))

    return Late(), outside


@pytest.mark.parametrize("enters", sorted(ENTERS))
def test_it_is_found_however_it_enters(solving, net, start, enters):
    """The gradient by it, or an error; never a solve that leaves it out."""
    field, outside = _field(net, enters, lambda _n, t: t > 0.5)
    if solving.method.traits.state_from == "graph":
        (found,) = torch.autograd.grad(solving(field, start())[-1].sum(), outside)
        assert float(found.abs().min()) > 1e-3
        return
    with pytest.raises(UsageError, match="reached through a closure"):
        torch.autograd.grad(solving(field, start())[-1].sum(), [*field.first.parameters()])


STEPS = {
    "kinetic": {"num_steps": 4},
    "jacobian": {"num_steps": 4},
    "local": {"rtol": 1e-4, "atol": 1e-4},
}
IMPLICIT = [
    name for name in shared_loop_methods() if build_gradient(name).refuses(make_solver("kencarp4", num_steps=4)) is None
]


@pytest.mark.parametrize("enters", sorted(ENTERS))
@pytest.mark.parametrize("name", IMPLICIT)
def test_it_is_found_by_implicit_steps(net, start, name, enters):
    """Under ``naive`` too, whose implicit steps keep no graph of the field."""
    field, _ = _field(net, enters, lambda _n, t: t > 0.5)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def loss():
        return build_gradient(name)(field, make_solver("kencarp4", num_steps=4), start(), times)[-1].sum()

    with pytest.raises(UsageError, match="reached through a closure"):
        torch.autograd.grad(loss(), [*field.first.parameters()])


@pytest.mark.parametrize("penalty", ["kinetic", "jacobian", "local"])
@pytest.mark.parametrize("name", ["aca", "adjoint", "symplectic_adjoint"])
def test_it_is_found_under_a_regulariser(net, start, name, penalty):
    """Whose integrand pulls back through the field by itself."""
    field, _ = _field(net, "for a parameter", lambda _n, t: t > 0.5)
    method, solver = build_gradient(name), make_solver("rk4" if penalty != "local" else "dopri5", **STEPS[penalty])
    solve = RegularisedSolve(method, solver, Regularisers.of({penalty: 0.3}))

    def loss():
        return solve(field, start(), torch.tensor([0.0, 1.0], dtype=torch.float64))[-1].sum() + solve.penalty()

    with pytest.raises(UsageError, match="reached through a closure"):
        torch.autograd.grad(loss(), [*field.first.parameters()])


@pytest.mark.parametrize("at", range(1, 9))
def test_one_call_that_makes_another_number_of_nodes_is_enough(net, start, at):
    """Wherever it lies between the graphs that are walked."""
    solver = make_solver("rk4", num_steps=4)
    solved = []
    field, _ = _field(net, "beside the rest", lambda n, _t: bool(solved) and n == solved[0] + at)
    ys = build_gradient("adjoint")(field, solver, start(), torch.tensor([0.0, 1.0], dtype=torch.float64))
    solved.append(field.calls)
    with pytest.raises(UsageError, match="reached through a closure"):
        torch.autograd.grad(ys[-1].sum(), [*field.first.parameters()])


def test_of_one_shape_every_sixth_graph_is_walked_and_of_a_new_one_the_first():
    """However the shapes alternate, and however many there are."""
    known = Known([])
    due = [known.is_due("a") for _ in range(3 * (BETWEEN + 1))]
    assert due == [True, *[False] * BETWEEN] * 3
    assert known.is_due("b")
    assert not known.is_due("b")
    assert all(known.is_due(("one of many", n)) for n in range(200))


@pytest.mark.parametrize("name", ["aca", "revolve"])
@pytest.mark.parametrize("step", range(4))
def test_what_takes_the_place_of_a_constant_is_found_in_whatever_step_it_does(net, start, name, step):
    """The number of nodes is the same then, and of a step that is like another one the last call alone is walked."""
    solver = make_solver("rk4", num_steps=4)
    solved = []
    field, _ = _field(net, "for a constant", lambda _n, t: bool(solved) and step / 4 < t <= (step + 1) / 4)
    ys = build_gradient(name)(field, solver, start(), torch.tensor([0.0, 1.0], dtype=torch.float64))
    solved.append(field.calls)
    with pytest.raises(UsageError, match=r"reached through a closure|a step that is redone"):
        torch.autograd.grad(ys[-1].sum(), [*field.first.parameters()])
