"""The steps of the implicit-explicit pair: order, counts of both halves, stiffness, dense output, refusals."""

import math

import pytest
import torch
from torch import nn

from odegrad.checks.problems import StepLog
from odegrad.contracts import ImplicitWork
from odegrad.errors import UnsupportedError, UsageError
from odegrad.measuring.counting import CountedField, Counts
from odegrad.methods.gradients.aca import Aca
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.loop import replayed, steps
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient
from odegrad.states import Layout

STAGES = 6


class Split(nn.Module):
    """A field made of two halves, nonlinear and dependent on time; ``off`` is added to their sum."""

    def __init__(self, off=0.0):
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([1.3, 0.7, 2.0], dtype=torch.float64))
        self.off = off

    def stiff(self, t, y):
        """Return the half that is solved for."""
        (x, v), (a, b, c) = y.unbind(-1), self.rates
        return torch.stack([-a * x * v - c * x, -b * v + x * torch.sin(t)], dim=-1)

    def rest(self, t, y):
        """Return the other one."""
        (x, v), (a, b, _) = y.unbind(-1), self.rates
        return torch.stack([torch.sin(2 * t) + b * v * v, torch.cos(3 * t) * x - a * v * x], dim=-1)

    def forward(self, t, y):
        """Return the sum."""
        return self.stiff(t, y) + self.rest(t, y) + self.off


class Forced(nn.Module):
    """``x' = -rate (x - cos t) - sin t``, fast, and ``z' = a x z``, slow: ``x = cos t``, ``z = exp(a sin t)``."""

    def __init__(self, rate, forcing_in_rest=False):
        super().__init__()
        self.rate, self.forcing_in_rest = rate, forcing_in_rest
        self.a = nn.Parameter(torch.ones((), dtype=torch.float64))

    def stiff(self, t, y):
        """Return the fast decay, and what it is in balance with."""
        x, z = y.unbind(-1)
        forcing = 0.0 if self.forcing_in_rest else torch.sin(t)
        return torch.stack([-self.rate * (x - torch.cos(t)) - forcing, 0.0 * z], dim=-1)

    def rest(self, t, y):
        """Return the slow growth."""
        x, z = y.unbind(-1)
        forcing = torch.sin(t) if self.forcing_in_rest else 0.0
        return torch.stack([0.0 * x - forcing, self.a * x * z], dim=-1)

    def forward(self, t, y):
        """Return the sum."""
        return self.stiff(t, y) + self.rest(t, y)


def _solved(field, y0, ts, name="kencarp4_imex", **options):
    """Return (solution, step log, counts) of a solve without a graph."""
    log, counts = StepLog(), Counts()
    solver = make_solver(name, **options).observed_by(log)
    with torch.no_grad():
        ys = Naive()(CountedField(field, counts), solver, y0, torch.tensor(ts, dtype=torch.float64))
    return ys, log, counts


def _end_and_gradient(name, **options):
    field, y0 = Split(), torch.tensor([[1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    ys = Naive()(field, make_solver(name, **options), y0, torch.tensor([0.0, 2.0], dtype=torch.float64))
    grads = torch.autograd.grad((ys[-1] ** 2).sum(), (y0, *field.parameters()))
    return ys[-1].detach(), torch.cat([g.reshape(-1) for g in grads])


def test_slopes_of_state_and_gradient():
    """On fixed grids both errors fall by the order 4, on halves that depend on time and on each other's state."""
    truth = _end_and_gradient("dopri8", num_steps=24)
    tight = {"rtol": 1e-10, "atol": 1e-10, "newton": 1e-4}
    coarse, fine = (_end_and_gradient("kencarp4_imex", num_steps=n, **tight) for n in (12, 24))
    for before, after, true in zip(coarse, fine, truth, strict=True):
        slope = math.log2(float((before - true).norm() / (after - true).norm()))
        assert abs(slope - 4) <= 0.15, slope


def test_without_a_rest_it_is_the_implicit_method():
    """Where all of f is stiff the steps are those of kencarp4: the stages are the same equations."""

    class Whole(Split):
        def stiff(self, t, y):
            return Split.stiff(self, t, y) + Split.rest(self, t, y)

        def rest(self, t, y):
            return torch.zeros_like(y)

        def forward(self, t, y):
            return self.stiff(t, y)

    y0 = torch.tensor([[1.0, 0.5], [-0.3, 1.2]], dtype=torch.float64)
    tight = {"num_steps": 5, "rtol": 1e-12, "atol": 1e-12, "newton": 1e-3}
    pair, alone = (_solved(Whole(), y0, [0.0, 1.0], name, **tight)[0] for name in ("kencarp4_imex", "kencarp4"))
    torch.testing.assert_close(pair, alone, rtol=1e-12, atol=1e-12)


def test_counts_of_both_halves_are_exact():
    """Whole: the start and the trial of the first step. Rest: at each stage, the first one once a state."""
    y0 = torch.tensor([[1.0, 0.5], [2.0, -0.5]], dtype=torch.float64)
    # A first step that is too long is rejected: its first stage is known to the next attempt.
    _, log, counts = _solved(Split(), y0, [0.0, 3.0], rtol=1e-6, atol=1e-8, first_step=0.3)
    work, accepted = sum(log.works, ImplicitWork()), len(log.ends)
    assert log.rejections > 0
    assert work.failures == 0
    assert counts.halves["forward", "rest"] == work.rest == STAGES * accepted + (STAGES - 1) * log.rejections
    assert counts.halves["forward", "stiff"] == work.newton + work.newton_lost + work.jacobians
    assert work.jacobians == accepted
    assert counts.calls["forward"] == 1 + counts.halves.total()
    _, _, chosen = _solved(Split(), y0, [0.0, 3.0], rtol=1e-6, atol=1e-8)
    assert chosen.calls["forward"] == 2 + chosen.halves.total()


@pytest.mark.parametrize("rate", [1e3, 1e6])
def test_stiffness_does_not_bind_the_steps(rate):
    """The closed form, by steps that the slow half sets, with fewer calls of the rest than kencarp4 has of f."""
    y0 = torch.ones(1, 2, dtype=torch.float64)
    found = {}
    for name in ("kencarp4_imex", "kencarp4"):
        ys, log, counts = _solved(Forced(rate), y0, [0.0, 10.0], name, rtol=1e-5, atol=1e-7)
        assert float(ys[-1, 0, 0]) == pytest.approx(math.cos(10.0), abs=1e-5)
        assert float(ys[-1, 0, 1]) == pytest.approx(math.exp(math.sin(10.0)), rel=1e-4)
        assert len(log.ends) + log.rejections <= 70
        found[name] = counts
    assert found["kencarp4_imex"].halves["forward", "rest"] < 0.9 * found["kencarp4"].calls["forward"]


def test_it_pays_against_an_explicit_solver():
    """At a rate of 1,000 an explicit method takes steps by the rate, and many times the calls of both halves."""
    y0 = torch.ones(1, 2, dtype=torch.float64)
    _, _, pair = _solved(Forced(1e3), y0, [0.0, 2.0], rtol=1e-4, atol=1e-6)
    _, _, explicit = _solved(Forced(1e3), y0, [0.0, 2.0], "dopri5", rtol=1e-4, atol=1e-6)
    assert 8 * pair.calls["forward"] < explicit.calls["forward"]


@pytest.mark.parametrize("rate", [1e2, 1e4, 1e6])
def test_what_the_rest_does_to_fast_modes_is_in_the_estimate(rate):
    """Forcing of a fast mode that is left to the rest moves the end of each step off it: the tolerance still holds.

    A filter of the whole estimate would hide that: at a rate of 1e6 the end was then off by 2e-2.
    """
    ys, _, _ = _solved(Forced(rate, forcing_in_rest=True), torch.ones(1, 2).double(), [0.0, 10.0], rtol=1e-4, atol=1e-6)
    assert float(ys[-1, 0, 0]) == pytest.approx(math.cos(10.0), abs=3e-4)


def test_samples_may_mix_in_the_rest():
    """The stiff half alone has Jacobians: blocks of samples do where the whole field, whose samples mix, is refused."""

    class Mean(Split):
        def rest(self, t, y):
            return Split.rest(self, t, y) - 0.5 * (y - y.mean(0))

    y0 = torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options = {"rtol": 1e-7, "atol": 1e-9, "linear": "blocks"}
    with pytest.raises(UnsupportedError, match="samples depend on each other"):
        _solved(Mean(), y0, [0.0, 1.0], "kencarp4", **options)
    ys, _, _ = _solved(Mean(), y0, [0.0, 1.0], **options)
    true, _, _ = _solved(Mean(), y0, [0.0, 1.0], "dopri5", rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ys[-1], true[-1], rtol=1e-6, atol=1e-6)

    class Mixed(Mean):
        def stiff(self, t, y):
            return Split.stiff(self, t, y) - 0.5 * y.mean(0)

    with pytest.raises(UnsupportedError, match="samples depend on each other"):
        _solved(Mixed(), y0, [0.0, 1.0], **options)


@pytest.mark.parametrize("linear", ["dense", "krylov"])
def test_systems_of_every_kind_take_the_same_steps(linear):
    """One matrix, and GMRES to a hundredth of Newton's tolerance: the grid of blocks."""
    y0 = torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    blocks, log, _ = _solved(Split(), y0, [0.0, 2.0], rtol=1e-6, atol=1e-8, linear="blocks")
    ys, other, _ = _solved(Split(), y0, [0.0, 2.0], rtol=1e-6, atol=1e-8, linear=linear)
    assert len(other.ends) == len(log.ends)
    torch.testing.assert_close(ys, blocks, rtol=1e-7, atol=1e-7)


def test_replays_repeat_bit_for_bit():
    """A step is a function of time, size and state: the recorded steps redone are the same numbers."""
    y0 = torch.tensor([[1.0, 0.5], [2.0, -0.5]], dtype=torch.float64)
    field = FlatField(Split(), Layout.of(y0))
    solver = make_solver("kencarp4_imex", rtol=1e-6, atol=1e-8)
    grid, states, x = [], [], y0.reshape(-1)
    with torch.no_grad():
        for step in steps(field, solver, x, [0.0, 2.0]):
            grid.append(step.grid_step)
            states.append(step.x_next.clone())
        again = [x_next.clone() for x_next in replayed(field, solver, x, grid, 4)]
    assert all(torch.equal(a, b) for a, b in zip(states, again, strict=True))


def test_dense_output():
    """Outputs inside of steps are of order 3 there, the same with a graph and without, and cost no step."""
    y0 = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    ts = [0.0, *(0.2 * k for k in range(1, 10)), 2.0]
    errors = []
    for rtol in (1e-5, 1e-7):
        ys, log, _ = _solved(Split(), y0, ts, rtol=rtol, atol=rtol, outputs="dense")
        _, alone, _ = _solved(Split(), y0, [0.0, 2.0], rtol=rtol, atol=rtol)
        true, _, _ = _solved(Split(), y0, ts, "dopri8", num_steps=2)
        errors.append(float((ys - true).abs().max()))
        assert log.ends == alone.ends
        # The last output is a step's end, and bit for bit what it is without the others.
        assert errors[-1] <= 10 * rtol
    with_graph = Naive()(
        Split(),
        make_solver("kencarp4_imex", rtol=1e-7, atol=1e-7, outputs="dense"),
        y0,
        torch.tensor(ts, dtype=torch.float64),
    )
    torch.testing.assert_close(with_graph.detach(), ys, rtol=1e-14, atol=1e-15)


def test_halves_that_are_not_the_field_are_refused():
    """Once a solve, at its start: before any step is taken."""
    y0 = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    with pytest.raises(UsageError, match=r"stiff\(t, y\) \+ rest\(t, y\) is off field\(t, y\) by"):
        _solved(Split(off=1e-3), y0, [0.0, 1.0])
    counts = Counts()
    with pytest.raises(UsageError, match="off field"):
        Aca()(
            CountedField(Split(off=1e-3), counts), make_solver("kencarp4_imex"), y0, torch.tensor([0.0, 1.0]).double()
        )
    assert counts.calls["forward"] <= 4


def test_a_field_without_halves_is_refused():
    """The sentence names what is missing and the solver that needs no halves."""

    class Whole(nn.Module):
        def forward(self, t, y):
            return -y

    y0 = torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(UnsupportedError, match=r"Whole without stiff and rest; .* kencarp4"):
        Naive()(Whole(), make_solver("kencarp4_imex"), y0, torch.tensor([0.0, 1.0]).double())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("adjoint", "cannot be solved back"),
        ("interpolation", "two halves"),
        ("interpolation_dense", "two halves"),
        ("gauss_adjoint", "two halves"),
        ("forward_sensitivity", "two halves"),
        ("mali", "no inverse step"),
        ("reversible_rk", "no inverse step"),
    ],
)
def test_methods_without_a_way_back_refuse(name, why):
    """One sentence, with what to take instead."""
    with pytest.raises(UnsupportedError, match=why):
        build_gradient(name)(
            Split(), make_solver("kencarp4_imex"), torch.ones(1, 2).double(), torch.tensor([0.0, 1.0]).double()
        )
