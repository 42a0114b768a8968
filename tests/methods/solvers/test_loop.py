"""The solver loop against torchdiffeq's choices, closed forms and its own stated limits."""

import math

import pytest
import torch
import torchdiffeq
from torch import nn

from odegrad.checks.problems import Recorded, SmoothNet, StepLog
from odegrad.errors import (
    NonFiniteError,
    StepSizeUnderflowError,
    TooManyStepsError,
    UnknownNameError,
    UsageError,
)
from odegrad.methods.gradients.adjoint import Adjoint
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver, solver_names
from odegrad.methods.solvers.tableaus import TABLEAUS
from odegrad.registry import build_solver

ORDERS = {
    "euler": 1,
    "midpoint": 2,
    "heun": 2,
    "heun3": 3,
    "adaptive_heun": 2,
    "fehlberg2": 2,
    "rk4": 4,
    "bosh3": 3,
    "dopri5": 5,
    "tsit5": 5,
    "dopri8": 8,
    "alf": 2,
}


class _Counter(nn.Module):
    """Counts the steps that torchdiffeq accepts and rejects."""

    def __init__(self, field):
        super().__init__()
        self.field, self.calls, self.accepted, self.rejected = field, 0, 0, 0

    def forward(self, t, y):
        self.calls += 1
        return self.field(t, y)

    def callback_accept_step(self, t, y, h):
        self.accepted += 1

    def callback_reject_step(self, t, y, h):
        self.rejected += 1


class _VanDerPol(nn.Module):
    def forward(self, t, y):
        x, v = y[..., 0], y[..., 1]
        return torch.stack([v, 5 * (1 - x**2) * v - x], dim=-1)


def _start(seed=1, batch=16):
    return torch.randn(batch, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", ["bosh3", "dopri5", "dopri8"])
@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("times", [[0.0, 1.0], [0.0, 0.25, 0.3, 2.0], [1.0, 0.4, -1.0]])
@pytest.mark.parametrize("problem", ["smooth", "van der pol"])
def test_controller_makes_torchdiffeqs_choices(name, tol, times, problem):
    """Same f calls, accepted and rejected steps, and solution, where torchdiffeq lands on the outputs."""
    field = SmoothNet() if problem == "smooth" else _VanDerPol()
    y0 = _start() if problem == "smooth" else torch.tensor([[2.0, 0.0], [0.5, 1.0]], dtype=torch.float64)
    ts = torch.tensor(times, dtype=torch.float64)
    counter = _Counter(field)
    with torch.no_grad():
        theirs = torchdiffeq.odeint(counter, y0, ts, rtol=tol, atol=tol, method=name, options={"step_t": ts[1:]})
        recorded, log = Recorded(field), StepLog()
        ours = Naive()(recorded, make_solver(name, rtol=tol, atol=tol).observed_by(log), y0, ts)
    assert (len(recorded.times), len(log.ends), log.rejections) == (counter.calls, counter.accepted, counter.rejected)
    assert len(recorded.times) == 2 + TABLEAUS[name].evaluations * (len(log.ends) + log.rejections)
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_published_adjoint_makes_torchdiffeqs_backward_choices():
    """With the published norm and state the backward solve takes torchdiffeq's steps where that lands too."""
    field, y0 = SmoothNet(), _start()
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    counter = _Counter(field)
    options = {"step_t": ts[1:]}
    ys = torchdiffeq.odeint_adjoint(
        counter, y0, ts, rtol=1e-6, atol=1e-6, method="dopri5", options=options, adjoint_options={"step_t": ts[:1]}
    )
    forward = counter.calls
    (ys[-1] ** 2).sum().backward()
    theirs = torch.cat([p.grad.reshape(-1) for p in field.parameters()])
    field.zero_grad()
    recorded = Recorded(field)
    ours = Adjoint(parameters="state", normalize_costate=False)
    ys = ours(recorded, make_solver("dopri5", rtol=1e-6, atol=1e-6), y0, ts)
    mine = len(recorded.times)
    (ys[-1] ** 2).sum().backward()
    found = torch.cat([p.grad.reshape(-1) for p in field.parameters()])
    assert (mine, len(recorded.times)) == (forward, counter.calls)
    assert torch.linalg.vector_norm(found - theirs) <= 1e-8 * torch.linalg.vector_norm(theirs)


@pytest.mark.parametrize("name", [name for name in solver_names() if not make_solver(name).implicit])
def test_fixed_steps_converge_with_the_stated_order(name):
    """On y' = cos(t) y the error of y(T) falls with the solver's order; few steps where it is high."""

    class Forced(nn.Module):
        def forward(self, t, y):
            return torch.cos(t) * y

    y0, ts = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0.0, 2.0], dtype=torch.float64)
    steps = [4, 8] if name == "dopri8" else [64, 128]
    errors = []
    for n in steps:
        y = Naive()(Forced(), make_solver(name, num_steps=n), y0, ts)[-1]
        errors.append(abs(y.item() - math.exp(math.sin(2.0))))
    order = math.log2(errors[0] / errors[1])
    assert make_solver(name).order == ORDERS[name]
    assert order == pytest.approx(ORDERS[name], abs=0.15)


@pytest.mark.parametrize("name", [n for n in TABLEAUS if TABLEAUS[n].dense is not None])
def test_dense_output_converges_one_order_below_or_better(name):
    """Inside a step the continuous extension of y' = y is off by O(h^(q+1)), q its polynomial's order."""
    tableau = TABLEAUS[name]
    errors = []
    for h in (0.2, 0.1):
        k = [1.0]
        for row in tableau.a[1:]:
            k.append(1.0 + h * sum(a * b for a, b in zip(row, k, strict=True)))
        worst = 0.0
        for theta in (0.25, 0.5, 0.8):
            y = 1.0 + h * sum(w * s for w, s in zip(tableau.weights_at(theta), k, strict=True))
            worst = max(worst, abs(y - math.exp(theta * h)))
        errors.append(worst)
    local_order = math.log2(errors[0] / errors[1])
    expected = {"euler": 2, "midpoint": 3, "heun": 3, "heun3": 3, "rk4": 4, "bosh3": 4, "dopri5": 5, "tsit5": 5}
    expected |= {"adaptive_heun": 3, "fehlberg2": 3}
    assert local_order >= expected[name] - 0.3


def test_landing_is_more_accurate_than_interpolating_past_the_end():
    """Ending a step on T is closer to exp(T) than torchdiffeq's dense output beyond it, in no more f calls."""

    class Growth(nn.Module):
        def forward(self, t, y):
            return y

    y0, ts = torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    recorded, counter = Recorded(Growth()), _Counter(Growth())
    ours = Naive()(recorded, make_solver("dopri5", rtol=1e-6, atol=1e-6), y0, ts)[-1]
    theirs = torchdiffeq.odeint(counter, y0, ts, rtol=1e-6, atol=1e-6, method="dopri5")[-1]
    assert abs(ours.item() - math.e) < abs(theirs.item() - math.e)
    assert len(recorded.times) <= counter.calls


def test_first_step_is_not_differentiated():
    """The gradient is that of the recorded steps: replaying them with a fixed first step gives the same bits."""
    field, y0 = SmoothNet(), _start().requires_grad_()
    ts, log = torch.tensor([0.0, 1.0], dtype=torch.float64), StepLog()
    adaptive = make_solver("dopri5", rtol=1e-3, atol=1e-3)
    (g,) = torch.autograd.grad((Naive()(field, adaptive.observed_by(log), y0, ts)[-1] ** 2).sum(), y0)
    frozen = make_solver("dopri5", rtol=1e-3, atol=1e-3, first_step=log.ends[0])
    (h,) = torch.autograd.grad((Naive()(field, frozen, y0, ts)[-1] ** 2).sum(), y0)
    assert torch.equal(g, h)


class _Blows(nn.Module):
    def forward(self, t, y):
        return y**2


class _NotFinite(nn.Module):
    def __init__(self, after):
        super().__init__()
        self.after = after

    def forward(self, t, y):
        return y / 0.0 if t > self.after else -y


def test_singular_problem_ends_with_a_clear_error():
    """Y' = y^2, y(0) = 1 is singular at t = 1: the step collapses there, and the error says where."""
    y0, ts = torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 2.0], dtype=torch.float64)
    with pytest.raises((StepSizeUnderflowError, NonFiniteError), match=r"t = (1|0\.99)"):
        Naive()(_Blows(), make_solver("dopri5", rtol=1e-9, atol=1e-9), y0, ts)


@pytest.mark.parametrize(("after", "match"), [(-1.0, "before the first step"), (0.5, r"just after t = 0\.5")])
def test_non_finite_field_is_named_with_its_time(after, match):
    """A field that is not finite from some time on stops the solve with that time."""
    y0, ts = torch.ones(3, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(NonFiniteError, match=match):
        Naive()(_NotFinite(after), make_solver("dopri5", rtol=1e-6, atol=1e-6), y0, ts)


def test_fixed_steps_that_blow_up_are_named():
    """Euler with far too large steps overflows; the error names the step."""
    y0, ts = torch.full((1,), 1e30, dtype=torch.float32), torch.tensor([0.0, 1.0])
    with pytest.raises(NonFiniteError, match="5 fixed steps"):
        Naive()(_Blows(), make_solver("euler", num_steps=5), y0, ts)


def test_step_limit():
    """A solve that needs more steps than max_steps stops and says how far it came."""
    with pytest.raises(TooManyStepsError, match="5 steps were attempted"):
        Naive()(
            _VanDerPol(),
            make_solver("dopri5", max_steps=5),
            torch.tensor([2.0, 0.0]).double(),
            torch.tensor([0.0, 9.0]).double(),
        )


@pytest.mark.parametrize(
    ("y0", "ts", "error", "match"),
    [
        (torch.ones(2), torch.tensor([0.0, 1.0, 0.5]), UsageError, "strictly increasing"),
        (torch.ones(2), torch.tensor([0.0]), UsageError, "at least two times"),
        (torch.ones(2), torch.tensor([0, 1]), UsageError, "floating-point tensor"),
        (torch.ones(2), torch.tensor([0.0, float("nan")]), UsageError, "finite times"),
        (torch.ones(2, dtype=torch.int64), torch.tensor([0.0, 1.0]), UsageError, "floating-point states"),
        (torch.tensor([1.0, float("nan")]), torch.tensor([0.0, 1.0]), NonFiniteError, "y0: expected finite"),
        (
            (torch.ones(2), torch.ones(2, device="meta")),
            torch.tensor([0.0, 1.0]),
            UsageError,
            "one device for all parts",
        ),
        (torch.ones(0), torch.tensor([0.0, 1.0]), UsageError, "at least one number"),
    ],
)
def test_bad_states_and_times_are_refused(y0, ts, error, match):
    """Bad input is refused before any f call, with the argument's name."""
    recorded = Recorded(_Blows())
    with pytest.raises(error, match=match):
        Naive()(recorded, make_solver("dopri5"), y0, ts)
    assert recorded.times == []


def test_field_of_the_wrong_shape_is_refused():
    """A field that would broadcast silently is refused with both shapes."""

    class Wrong(nn.Module):
        def forward(self, t, y):
            return y.sum()

    with pytest.raises(UsageError, match=r"expected dy/dt of shape and dtype \['\(2, 3\)"):
        Naive()(Wrong(), make_solver("rk4"), torch.ones(2, 3), torch.tensor([0.0, 1.0]))


def test_tolerance_below_the_dtype_warns():
    """A float32 state cannot hold 1e-9; the solve says so."""
    with pytest.warns(UserWarning, match=r"rtol = 1e-09 is below what torch.float32 can hold"):
        Naive()(
            SmoothNet().float(), make_solver("bosh3", rtol=1e-9, atol=1e-3), torch.ones(1, 8), torch.tensor([0.0, 0.1])
        )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rtol": 0.0}, "rtol: expected a positive number"),
        ({"atol": -1.0}, "atol: expected a positive number"),
        ({"num_steps": 2, "step_size": 0.1}, "at most one of them"),
        ({"num_steps": 1.5}, "num_steps: expected a whole number"),
        ({"step_size": -0.1}, "step_size: expected a positive number"),
        ({"stepsize": 0.1}, "unknown option 'stepsize'"),
    ],
)
def test_bad_solver_options_are_refused(options, match):
    """Options out of range are refused with their name."""
    with pytest.raises(UsageError, match=match):
        make_solver("rk4", **options)


def test_unknown_solver_answers_with_the_nearest():
    """A typing slip is answered with the names that were meant."""
    with pytest.raises(UnknownNameError, match="did you mean 'dopri8' or 'dopri5'"):
        build_solver("dopri", 1e-3, 1e-3)


def test_step_size_divides_each_interval_evenly():
    """Steps of at most step_size that land on each output."""
    log = StepLog()
    solver = make_solver("rk4", step_size=0.25).observed_by(log)
    Naive()(SmoothNet(), solver, _start(), torch.tensor([0.0, 0.5, 1.1], dtype=torch.float64))
    assert log.ends == pytest.approx([0.25, 0.5, 0.7, 0.9, 1.1])


@pytest.mark.parametrize("name", ["dopri5", "kencarp4"])
def test_too_many_steps_at_a_field_that_is_not_finite(name):
    """Where the field is NaN just beyond the state no logarithmic norm is told, and no stiffness is guessed."""

    class Wall(nn.Module):
        def forward(self, t, y):
            return torch.where(y >= 1.0, math.nan, 1.0 + 0.0 * y)

    y0 = torch.full((1, 1), 1.0 - 1e-9, dtype=torch.float64)
    solver = make_solver(name, max_steps=4, first_step=0.1)
    with pytest.raises(TooManyStepsError, match="not finite just beyond") as caught:
        Naive()(Wall(), solver, y0, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert "nan" not in str(caught.value).replace("NaN", "")
    assert "stiff" not in str(caught.value)
