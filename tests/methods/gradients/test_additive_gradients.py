"""Exact gradients of the implicit-explicit pair: against backprop through Newton's iteration, and each other."""

import pytest
import torch
from torch import nn

from odegrad.checks.problems import StepLog
from odegrad.errors import UnsupportedError, UsageError
from odegrad.measuring.call_counts import count_columns
from odegrad.measuring.counting import CountedField, Counts
from odegrad.methods.gradients.aca import Aca
from odegrad.methods.gradients.anode import Anode
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.gradients.revolve import Revolve
from odegrad.methods.gradients.symplectic_adjoint import SymplecticAdjoint
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.loop import steps
from odegrad.methods.solvers.solver import make_solver
from odegrad.reference.subject import of_model
from odegrad.states import Layout
from odegrad.user.models import Model

METHODS = (
    Aca(),
    Anode(),
    Anode(steps_per_block=3),
    Revolve(checkpoints=1),
    Revolve(checkpoints=2),
    Revolve(checkpoints=100),
    SymplecticAdjoint(),
)


class Reacting(nn.Module):
    """A stiff reaction of both numbers, forced slowly: each half depends on time and has parameters of its own."""

    def __init__(self, rate=1e4):
        super().__init__()
        self.logs = nn.Parameter(torch.tensor([0.1, -0.2], dtype=torch.float64))
        self.net = nn.Linear(2, 2).double()
        self.rate = rate
        with torch.no_grad():
            self.net.weight.copy_(torch.tensor([[0.3, -0.4], [0.5, 0.2]]))
            self.net.bias.copy_(torch.tensor([0.1, -0.1]))

    def stiff(self, t, y):
        """Return the reaction."""
        (x, v), (a, b) = y.unbind(-1), self.logs.exp()
        pull = self.rate * (a * x * x - b * v + 0.1 * torch.sin(t))
        return torch.stack([-pull / self.rate, pull], dim=-1)

    def rest(self, t, y):
        """Return the forcing."""
        return torch.tanh(self.net(y)) * torch.cos(t) * torch.tensor([1.0, 0.1], dtype=torch.float64)

    def forward(self, t, y):
        """Return the sum."""
        return self.stiff(t, y) + self.rest(t, y)


def _through_newton(field, scheme, grid, y):
    """Return the end of the recorded steps with the graph of full Newton iterations, Jacobians and all."""

    def half(name, t, y):
        return getattr(field, name)(torch.tensor(t, dtype=torch.float64), y[None])[0]

    tableau, e = scheme.tableau, scheme.partner.a
    for step in grid:
        times, h, g = tableau.times(step.t, step.h, step.t_next), step.h, tableau.gamma
        ks, rs = [half("stiff", step.t, y)], [half("rest", step.t, y)]
        for i in tableau.solved:
            base = y + h * sum(w * known for w, known in zip(tableau.a[i], ks, strict=True))
            base = base + h * sum(w * known for w, known in zip(e[i], rs, strict=True))
            z = h * g * ks[-1]
            for _ in range(8):
                w = torch.eye(len(z), dtype=z.dtype) - h * g * torch.autograd.functional.jacobian(
                    lambda x, t=times[i]: half("stiff", t, x), base + z, create_graph=True
                )
                z = z - torch.linalg.solve(w, z - h * g * half("stiff", times[i], base + z))
            ks.append(z / (h * g))
            rs.append(half("rest", times[i], base + z))
        y = y + h * sum(b * (k + r) for b, k, r in zip(tableau.b, ks, rs, strict=True))
    return y


def test_pull_back_is_backprop_through_full_newton():
    """On the same grid, each stage converged: the gradient is that through every iteration and its Jacobian."""
    field, y0 = Reacting(), torch.tensor([[1.0, 0.9]], dtype=torch.float64)
    solver = make_solver("kencarp4_imex", rtol=1e-3, atol=1e-5, newton=1e-11)
    with torch.no_grad():
        flat = FlatField(field, Layout.of(y0))
        grid = [step.grid_step for step in steps(flat, solver, y0.reshape(-1), [0.0, 2.0])]
    assert len(grid) >= 5
    weights = torch.tensor([1.0, 2.0], dtype=torch.float64)
    leaf = y0[0].clone().requires_grad_()
    true = torch.autograd.grad(
        (weights * _through_newton(field, solver.scheme, grid, leaf)).sum(), (leaf, *field.parameters())
    )
    leaf = y0.clone().requires_grad_()
    ys = Naive()(field, solver, leaf, torch.tensor([0.0, 2.0], dtype=torch.float64))
    found = torch.autograd.grad((weights * ys[-1, 0]).sum(), (leaf, *field.parameters()))
    for a, b in zip(found, true, strict=True):
        assert float((a.reshape(-1) - b.reshape(-1)).abs().max() / b.abs().max()) <= 1e-10


def _gradient(method, solver, y0, ts):
    """Return (states, gradient, calls and products forward and backward, those that were predicted)."""
    field, counts, log = Reacting(), Counts(), StepLog()
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


@pytest.mark.parametrize("options", [{}, {"num_steps": 2}, {"outputs": "dense"}], ids=["adaptive", "fixed", "dense"])
def test_every_method_gives_the_same_gradient(options):
    """One grid, one solution, one gradient to rounding; f calls and products are those that were predicted."""
    y0 = torch.tensor([[1.0, 0.9], [0.5, 0.3], [0.2, -0.1]], dtype=torch.float64)
    ts = torch.linspace(0.0, 0.4, 4, dtype=torch.float64)
    solver = make_solver("kencarp4_imex", rtol=1e-3, atol=1e-5, **options)
    ys, true, calls, predicted = _gradient(Naive(), solver, y0, ts)
    assert calls == predicted
    for method in METHODS:
        states, found, calls, predicted = _gradient(method, solver, y0, ts)
        assert torch.equal(states, ys), method
        assert float((found - true).norm() / true.norm()) <= 1e-12, method
        assert calls == predicted, method


def test_columns_tell_the_calls_of_each_half():
    """Of all calls those that are no half are the one that compares both with the whole, and the first step's trial."""
    y0 = torch.tensor([[1.0, 0.9]], dtype=torch.float64)
    subject = of_model(Model(Reacting(), y0, torch.tensor([0.0, 0.3], dtype=torch.float64)))
    solver = make_solver("kencarp4_imex", rtol=1e-3, atol=1e-5)
    for method in (Naive(), Aca(), SymplecticAdjoint()):
        found = count_columns(subject, method, solver)
        assert found["nfe_forward"] - found["nfe_stiff_forward"] - found["nfe_rest_forward"] == 2
        assert found["nfe_backward"] == found["nfe_stiff_backward"] + found["nfe_rest_backward"]
        again = 0 if isinstance(method, Naive) else 1
        assert found["nfe_rest_backward"] == 6 * (1 + again) * found["accepted_steps"]
        for column in ("nfe_forward", "nfe_backward", "vjps", "jacobians_backward", "factorisations_backward"):
            assert found[f"predicted_{column}"] == found[column], column
        assert found["predicted_linear_solves_backward"] == found["linear_solves_backward"]
    alone = count_columns(subject, Naive(), make_solver("kencarp4", rtol=1e-3, atol=1e-5))
    assert alone["nfe_stiff_forward"] is None


def test_a_second_derivative_is_refused():
    """A step's pull-back is no graph, and says so."""
    field, y0 = Reacting(), torch.tensor([[1.0, 0.9]], dtype=torch.float64, requires_grad=True)
    solver = make_solver("kencarp4_imex", rtol=1e-3, atol=1e-5)
    ys = Naive()(field, solver, y0, torch.tensor([0.0, 0.5], dtype=torch.float64))
    (first,) = torch.autograd.grad((ys[-1] ** 2).sum(), y0, create_graph=True)
    with pytest.raises(UnsupportedError, match="no second derivative"):
        torch.autograd.grad(first.sum(), y0)


def test_a_trained_tensor_that_nobody_told_of_is_refused():
    """Each half is looked through: what it reaches beside the field's parameters has no gradient otherwise."""
    hidden = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    class Leaking(Reacting):
        def rest(self, t, y):
            return Reacting.rest(self, t, y) * hidden

    y0 = torch.tensor([[1.0, 0.9]], dtype=torch.float64)
    for method in (Naive(), Aca(), SymplecticAdjoint()):
        with pytest.raises(UsageError, match="requires a gradient"):
            method(Leaking(), make_solver("kencarp4_imex"), y0, torch.tensor([0.0, 0.1], dtype=torch.float64))
