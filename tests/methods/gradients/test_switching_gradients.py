"""Exact gradients of the solver that switches: against backprop through its recorded steps, and each other."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from odegrad.checks.problems import StepLog
from odegrad.errors import UnsupportedError
from odegrad.measuring.call_counts import count_columns
from odegrad.measuring.counting import CountedField, Counts
from odegrad.methods.gradients.aca import Aca
from odegrad.methods.gradients.anode import Anode
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.gradients.revolve import Revolve
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.loop import steps
from odegrad.methods.solvers.solver import make_solver
from odegrad.reference.subject import of_model
from odegrad.registry import build_gradient
from odegrad.states import Layout
from odegrad.user.models import Model

METHODS = (
    Aca(),
    Anode(),
    Anode(steps_per_block=3),
    Revolve(checkpoints=1),
    Revolve(checkpoints=2),
    Revolve(checkpoints=100),
)
END = 7.0


class Forced(nn.Module):
    """Stiff about t = 2 only: explicit steps at first, implicit ones, and explicit ones again at last."""

    def __init__(self):
        super().__init__()
        self.log_rate = nn.Parameter(torch.tensor(6.0, dtype=torch.float64))
        self.pull = nn.Parameter(torch.tensor([[0.2, -1.0], [1.1, -0.3]], dtype=torch.float64))

    def forward(self, t, y):
        slow = torch.tanh(y @ self.pull.T)
        fast = torch.exp(self.log_rate - 8.0 * (t - 2.0) ** 2) * (torch.cos(y.flip(-1) + t) - 2.0 * y)
        return slow + fast


def _explicitly(rate, tableau, step, times, y, k):
    ks = [k]
    for i in range(1, tableau.stages):
        stage = y + step.h * sum(w * known for w, known in zip(tableau.a[i], ks, strict=True))
        ks.append(rate(times[i], stage))
    # The last stage stands at the solution.
    return stage, ks[-1]


def _implicitly(rate, tableau, step, times, y, k):
    ks, base, h, g = [k], y, step.h, tableau.gamma
    for i in tableau.solved:
        base = y + h * sum(w * known for w, known in zip(tableau.a[i], ks, strict=True))
        z = h * g * ks[-1]
        for _ in range(5):
            w = torch.eye(len(z), dtype=z.dtype) - h * g * torch.autograd.functional.jacobian(
                lambda x, t=times[i]: rate(t, x), base + z, create_graph=True
            )
            z = z - torch.linalg.solve(w, z - h * g * rate(times[i], base + z))
        ks.append(z / (h * g))
    return base + z, ks[-1]


def test_the_gradient_is_backprop_through_the_recorded_steps():
    """Each by its own method, stages converged: the graph of every f call, and of full Newton iterations."""
    field, y0 = Forced(), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    solver = make_solver("auto_stiff", rtol=1e-3, atol=1e-3, newton=1e-11)
    with torch.no_grad():
        flat = FlatField(field, Layout.of(y0))
        grid = [step.grid_step for step in steps(flat, solver, y0.reshape(-1), [0.0, END])]
    kinds = [step.stiff for step in grid]
    assert sum(a != b for a, b in pairwise(kinds)) >= 2

    def rate(t, y):
        return field(torch.tensor(t, dtype=torch.float64), y[None])[0]

    leaf = y0[0].clone().requires_grad_()
    y, k = leaf, rate(0.0, leaf)
    for step in grid:
        tableau = solver.scheme.tableau if step.stiff else solver.scheme.explicit
        taken = _implicitly if step.stiff else _explicitly
        y, k = taken(rate, tableau, step, tableau.times(step.t, step.h, step.t_next), y, k)
    weights = torch.tensor([1.0, 2.0], dtype=torch.float64)
    true = torch.autograd.grad((weights * y).sum(), (leaf, *field.parameters()))
    leaf = y0.clone().requires_grad_()
    ys = Naive()(field, solver, leaf, torch.tensor([0.0, END], dtype=torch.float64))
    found = torch.autograd.grad((weights * ys[-1, 0]).sum(), (leaf, *field.parameters()))
    for a, b in zip(found, true, strict=True):
        assert float((a.reshape(-1) - b.reshape(-1)).abs().max() / b.abs().max()) <= 1e-10


def _gradient(method, solver, y0, ts):
    """Return (states, gradient, calls and products forward and backward, those that were predicted)."""
    field, counts, log = Forced(), Counts(), StepLog()
    leaf = y0.clone().requires_grad_()
    ys = method(CountedField(field, counts), solver.observed_by(log), leaf, ts)
    forward, works = (len(log.ends), log.rejections), tuple(log.works)
    weights = torch.linspace(0.5, 1.5, ys[1:].numel(), dtype=ys.dtype).view_as(ys[1:])
    with counts.during("backward"):
        grads = torch.autograd.grad((weights * ys[1:]).sum(), (leaf, *field.parameters()))
    predicted = method.predicted_calls(solver.counted(len(ts) - 1, forward, works=works))
    return (
        ys.detach(),
        torch.cat([g.reshape(-1) / g.abs().max() for g in grads]),
        (counts.calls["forward"], counts.calls["backward"], counts.vjps["backward"]),
        (predicted.forward, predicted.backward, predicted.vjps),
    )


@pytest.mark.parametrize("outputs", ["step_ends", "dense"])
def test_every_method_gives_the_same_gradient(outputs):
    """One grid, one solution, one gradient to rounding; f calls and products are those that were predicted."""
    y0 = torch.tensor([[1.0, 0.0], [0.9, -0.5]], dtype=torch.float64)
    ts = torch.tensor([0.0, 1.0, 2.1, END], dtype=torch.float64)
    solver = make_solver("auto_stiff", rtol=1e-3, atol=1e-3, outputs=outputs)
    ys, true, calls, predicted = _gradient(Naive(), solver, y0, ts)
    assert calls == predicted
    for method in METHODS:
        states, found, calls, predicted = _gradient(method, solver, y0, ts)
        assert torch.equal(states, ys), method
        assert float((found - true).norm() / true.norm()) <= 1e-12, method
        assert calls == predicted, method


def test_columns_tell_both_kinds_of_work():
    """Steps of each method, their systems and bytes; what is predicted is what is counted."""
    y0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    subject = of_model(Model(Forced(), y0, torch.tensor([0.0, END], dtype=torch.float64)))
    for method in (Naive(), Aca()):
        found = count_columns(subject, method, make_solver("auto_stiff", rtol=1e-3, atol=1e-3))
        assert found["accepted_steps"] == found["explicit_steps"] + found["jacobians_forward"]
        assert 0 < found["explicit_steps"] < found["accepted_steps"]
        assert found["explicit_steps_lost"] <= found["rejected_steps"]
        explicit = 6 * (found["explicit_steps"] + found["explicit_steps_lost"])
        newton = found["newton_iterations"] + found["newton_iterations_lost"]
        assert found["nfe_forward"] == 2 + explicit + newton + found["jacobians_forward"]
        for column in ("nfe_forward", "nfe_backward", "vjps"):
            assert found[column] == found[f"predicted_{column}"], (method, column)
        for column in ("jacobians_backward", "factorisations_backward", "linear_solves_backward"):
            assert found[column] == found[f"predicted_{column}"], (method, column)
    plain = count_columns(subject, Naive(), make_solver("kencarp4", rtol=1e-3, atol=1e-3))
    assert plain["explicit_steps"] is None


@pytest.mark.parametrize(
    "name",
    [
        "symplectic_adjoint", "forward_sensitivity", "interpolation", "interpolation_dense", "gauss_adjoint", "adjoint",
        "adjoint_seminorm", "mali", "reversible_rk",
    ],
)  # fmt: skip
def test_methods_that_cannot_go_back_through_both_say_so(name):
    with pytest.raises(UnsupportedError, match=f"{name} cannot use solver auto_stiff: .* use aca"):
        build_gradient(name)(
            Forced(), make_solver("auto_stiff"), torch.ones(1, 2).double(), torch.tensor([0.0, 1.0]).double()
        )


def test_a_second_derivative_raises_and_is_never_wrong():
    """As through implicit steps alone, even where the loss is reached by explicit ones at last."""
    field, leaf = Forced(), torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    ys = Naive()(field, make_solver("auto_stiff", rtol=1e-3, atol=1e-3), leaf, torch.tensor([0.0, END]).double())
    (first,) = torch.autograd.grad(ys[-1].sum(), leaf, create_graph=True)
    with pytest.raises(UnsupportedError, match="second derivative"):
        torch.autograd.grad(first.sum(), leaf)
