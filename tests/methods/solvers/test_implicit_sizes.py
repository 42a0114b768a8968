"""Implicit steps of many samples and of many variables, and what the engine costs beside f and linear algebra."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from odegrad.checks.problems import StepLog
from odegrad.datasets.nets.stiff_fields import RobertsonField
from odegrad.measuring.meters import memory_meter
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.gradients.symplectic_adjoint import SymplecticAdjoint
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit import linear
from odegrad.methods.solvers.rosenbrock.slopes import Slopes
from odegrad.methods.solvers.solver import make_solver

RATES = torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64)
VIEWS = {"view", "t", "slice", "select", "detach", "unbind", "expand", "_unsafe_view"}
"""Operators that compute nothing."""


def _steps(rates, y0, end):
    log = StepLog()
    solver = make_solver("kencarp4", rtol=1e-4, atol=1e-8).observed_by(log)
    with torch.no_grad():
        ys = Naive()(RobertsonField(rates), solver, y0, torch.tensor([0.0, end], dtype=torch.float64))
    return ys[-1], len(log.ends) + log.rejections


def test_256_reactions_in_one_solve():
    """Spread rate constants: at most three times the steps of the worst one by itself, and its state."""
    generator = torch.Generator().manual_seed(0)
    rates = RATES * torch.exp(torch.randn(256, 3, generator=generator, dtype=torch.float64))
    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).expand(256, 3).contiguous()
    together, attempts = _steps(rates, y0, 100.0)
    singles = [_steps(rates[i : i + 1], y0[:1], 100.0) for i in range(0, 256, 32)]
    assert attempts <= 3 * max(n for _, n in singles)
    for i, (end, _) in enumerate(singles):
        torch.testing.assert_close(together[32 * i : 32 * i + 1], end, rtol=1e-3, atol=1e-7)


class _Brusselator(nn.Module):
    """Two species that react and diffuse on a periodic square of unit side, states ``[batch, 2, side, side]``."""

    def __init__(self, side):
        super().__init__()
        self.diffusion = nn.Parameter(torch.tensor(2e-2 * side**2, dtype=torch.float64))

    def forward(self, t, y):
        u, v = y.unbind(1)
        neighbours = sum(torch.roll(y, shift, axis) for shift in (1, -1) for axis in (2, 3))
        reaction = torch.stack([1 + u * u * v - 4.4 * u, 3.4 * u - u * u * v], dim=1)
        return reaction + self.diffusion * (neighbours - 4 * y)


def _brusselator(side, kind):
    """Return (end, gradient by the diffusion, peak bytes, steps)."""
    x = torch.arange(side, dtype=torch.float64) / side
    u = 1 + 0.5 * torch.sin(2 * torch.pi * x)[:, None].expand(side, side)
    v = 3.0 + 0.5 * torch.cos(2 * torch.pi * x)[None].expand(side, side)
    field, log, y0 = _Brusselator(side), StepLog(), torch.stack([u, v])[None].contiguous()
    solver = make_solver("kencarp4", rtol=1e-4, atol=1e-6, linear=kind).observed_by(log)
    with memory_meter(torch.device("cpu")) as meter:
        end = SymplecticAdjoint()(field, solver, y0, torch.tensor([0.0, 0.1], dtype=torch.float64))[-1]
        (gradient,) = torch.autograd.grad(end[:, 0].square().mean(), (field.diffusion,))
        peak = meter.peak_bytes()
    return end.detach(), float(gradient), peak, len(log.ends)


def test_a_field_of_many_variables_by_products():
    """Brusselator: GMRES gives the dense solution and gradient; 4,232 variables take the memory of four times 1,058."""
    end, gradient, _, _ = _brusselator(12, "krylov")
    dense, true, _, _ = _brusselator(12, "dense")
    torch.testing.assert_close(end, dense, rtol=1e-4, atol=1e-5)
    assert gradient == pytest.approx(true, rel=1e-3)
    (_, _, small, few), (_, _, large, many) = (_brusselator(side, "auto") for side in (23, 46))
    assert large / many <= 1.15 * 4 * small / few


class _Counter(TorchDispatchMode):
    """Counts operators outside of what is quiet."""

    def __init__(self):
        super().__init__()
        self.quiet = 0
        self.operators = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not self.quiet and func._schema.name.removeprefix("aten::") not in VIEWS:
            self.operators += 1
        return func(*args, **(kwargs or {}))

    def without(self, function):
        """Return ``function`` with its operators not counted."""

        def quietly(*args, **kwargs):
            self.quiet += 1
            try:
                return function(*args, **kwargs)
            finally:
                self.quiet -= 1

        return quietly


class _Quiet(nn.Module):
    def __init__(self, inner, counter):
        super().__init__()
        self.inner, self.counter = inner, counter

    def forward(self, t, y):
        return self.counter.without(self.inner)(t, y)

    def stiff(self, t, y):
        """Return all of it."""
        return self(t, y)

    def rest(self, t, y):
        """Return nothing of it."""
        return self.counter.without(torch.zeros_like)(y)


@pytest.mark.parametrize(
    ("name", "backward"),
    [
        ("tr_bdf2", 20), ("kvaerno3", 25), ("kencarp4", 35), ("kvaerno5", 40), ("rodas5p", 80), ("kencarp4_imex", 60),
        ("auto_stiff", 70),
    ],
)  # fmt: skip
def test_a_step_costs_few_operators_beside_f_and_linear_algebra(name, backward, monkeypatch):
    """At most 120 an attempt with its graph, and so many for the pull-back through a step; views compute nothing.

    Measured: 50, 65, 98, 114, 51, 120, 91 on the way there, 15, 20, 30, 35, 79, 56, 63 back (that of auto_stiff with
    f's own, of its explicit steps). Of kencarp4's 98 its 11 Newton iterations take 6 each.
    """
    counter, log = _Counter(), StepLog()
    for owner, part in (
        (linear.Linearisation, "__init__"), (linear.Linearisation, "system"), (linear.Linearisation, "pull"),
        (linear._Factors, "solve"), (linear._Factors, "solve_transposed"), (Slopes, "__init__"),
        (FlatField, "pulled_through"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, part, counter.without(getattr(owner, part)))
    field, y0 = _Quiet(RobertsonField(), counter), torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    solver = make_solver(name, rtol=1e-4, atol=1e-8).observed_by(log)
    with counter:
        end = Naive()(field, solver, y0, torch.tensor([0.0, 1e4], dtype=torch.float64))[-1]
        forward = counter.operators
        torch.autograd.grad(end.sum(), field.inner.rates)
    attempts = len(log.ends) + log.rejections + sum(work.failures for work in log.works)
    assert forward <= 120 * attempts
    assert counter.operators - forward <= backward * len(log.ends)
