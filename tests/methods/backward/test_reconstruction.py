"""A backward pass that has lost the state says so: figures against closed forms, advice that works, no false alarms."""

import itertools
import math
import re
import warnings

import numpy as np
import pytest
import torch
from scipy.interpolate import BarycentricInterpolator
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from odegrad.binding import solve_with
from odegrad.contracts import ReconstructionObserver
from odegrad.errors import InaccurateGradientWarning, MissedToleranceWarning
from odegrad.methods.backward.reconstruction import Limits, tell
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient, build_task

UNIT = torch.tensor([0.0, 1.0], dtype=torch.float64)
INTERPOLATING = ("interpolation", "gauss_adjoint")
SOLVING = ("adjoint", "adjoint_seminorm")


def _parameter(value):
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))


class Decay(nn.Module):
    """``y' = -rate y``."""

    def __init__(self, rate):
        super().__init__()
        self.rate = _parameter(rate)

    def forward(self, t, y):
        return -self.rate * y


class Oscillator(nn.Module):
    """Turns ``y`` by ``omega`` per unit of time."""

    def __init__(self, turns):
        super().__init__()
        self.omega = _parameter(2 * math.pi * turns)

    def forward(self, t, y):
        return self.omega * torch.stack([y[..., 1], -y[..., 0]], dim=-1)


class VanDerPol(nn.Module):
    """The relaxation oscillation."""

    def __init__(self, mu):
        super().__init__()
        self.mu = _parameter(mu)

    def forward(self, t, y):
        x, v = y[..., :1], y[..., 1:]
        return torch.cat([v, self.mu * (1 - x * x) * v - x], dim=-1)


class ProtheroRobinson(nn.Module):
    """``y' = -rate (y - cos t) - sin t``: every solution falls onto the cosine."""

    def __init__(self, rate):
        super().__init__()
        self.rate = _parameter(rate)

    def forward(self, t, y):
        return -self.rate * (y - torch.cos(t)) - torch.sin(t)


class Forced(nn.Module):
    """A field that is forced by data between which straight lines lie: kinks in time."""

    def __init__(self, size, pieces=12):
        super().__init__()
        self.theta = _parameter([1.0, size])
        self.data = torch.randn(pieces + 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def forward(self, t, y):
        at = float(t) * (len(self.data) - 1)
        left = min(int(at), len(self.data) - 2)
        u = self.data[left] + (at - left) * (self.data[left + 1] - self.data[left])
        return -self.theta[0] * y + self.theta[1] * torch.tanh(u * y + u)


class Listener:
    """Hears of steps, and of the figure."""

    def __init__(self):
        self.ends, self.figures = [], []

    def accepted(self, t, h):
        self.ends.append(t + h)

    def rejected(self, t, h):
        pass

    def reconstructed(self, error):
        self.figures.append(error)


def _gradient(name, field, solver, y0, ts=UNIT, **options):
    """Return the gradient as one vector, and the warnings."""
    start = torch.tensor(y0, dtype=torch.float64).requires_grad_()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        ys = build_gradient(name, options)(field, solver, start, ts)
        grads = torch.autograd.grad((ys[-1] ** 2).sum() / 2, (start, *field.parameters()))
    return torch.cat([g.reshape(-1) for g in grads]), heard


def _figure(name, field, solver, y0, ts=UNIT, **options):
    listener = Listener()
    with warnings.catch_warnings(action="ignore", category=InaccurateGradientWarning):
        _gradient(name, field, solver.observed_by(listener), y0, ts, **options)
    (figure,) = listener.figures
    return figure, listener.ends


def _off(found, true):
    return float(torch.linalg.vector_norm(found - true) / torch.linalg.vector_norm(true))


def _told(warning):
    """Return the figure and the limit that a warning names."""
    told = re.search(r"off by (\S+) of its size.*warned of above (\S+)\)", str(warning))
    return float(told.group(1)), float(told.group(2))


@pytest.mark.parametrize("name", SOLVING)
def test_a_solved_state_is_off_by_the_closed_form(name):
    """Of rk4 on ``y' = -r y``: ``R(-z)^N`` there and ``R(z)^N`` back leave ``|R(z)^N R(-z)^N - 1|`` of the start."""
    steps, rate = 5, 9.0
    figure, _ = _figure(name, Decay(rate), make_solver("rk4", num_steps=steps), [[1.0]])
    z = rate / steps
    there, back = (sum(x**k / math.factorial(k) for k in range(5)) for x in (-z, z))
    assert figure == pytest.approx(abs((there * back) ** steps - 1), rel=1e-9)


def test_a_solved_state_is_held_against_every_output():
    """The worst interval counts, relative to the larger of its ends, and the state starts anew at each."""
    ts = torch.tensor([0.0, 0.25, 1.0, 1.5], dtype=torch.float64)
    figure, _ = _figure("adjoint", Decay(4.0), make_solver("rk4", num_steps=2), [[3.0]], ts)
    errors = []
    for a, b in itertools.pairwise(ts.tolist()):
        z = 4.0 * (b - a) / 2
        there, back = (sum(x**k / math.factorial(k) for k in range(5)) for x in (-z, z))
        errors.append(abs((there * back) ** 2 - 1))
    assert figure == pytest.approx(max(errors), rel=1e-9)


@pytest.mark.parametrize("name", INTERPOLATING)
@pytest.mark.parametrize("kind", ["first", "second"])
def test_an_interpolant_is_off_by_scipys(name, kind):
    """Five nodes on a turn: at the ends of the steps it errs as scipy's interpolant of the cosine and sine does."""
    solver = make_solver("rk4", num_steps=15)
    figure, ends = _figure(name, Oscillator(1.0), solver, [[1.0, 0.0]], num_nodes=5, kind=kind)
    j = np.arange(5)
    nodes = 0.5 - 0.5 * np.cos(j * math.pi / 4 if kind == "second" else (2 * j + 1) * math.pi / 10)

    def turned(t):
        t = 2 * math.pi * np.asarray(t)
        return np.stack([np.cos(t), -np.sin(t)], axis=-1)

    at = np.asarray(ends)
    off = BarycentricInterpolator(nodes, turned(nodes))(at) - turned(at)
    assert figure == pytest.approx(np.linalg.norm(off, axis=1).max(), rel=2e-2)  # rk4's own error is 1e-3 of a state


def test_few_nodes_are_held_against_the_inside_of_a_step():
    """Two nodes on a single step: no end of a step is between them, its middle is."""
    figure, _ = _figure("interpolation", Decay(1.0), make_solver("dopri5", num_steps=1), [[1.0]], num_nodes=2)
    middle = (1 + math.exp(-1)) / 2 - math.exp(-0.5)
    assert figure == pytest.approx(middle, rel=2e-2)  # dense output of one step of size 1


def test_many_steps_are_held_thinly():
    """What is held of 400 steps is little, and still finds the error."""
    figure, _ = _figure("interpolation", Oscillator(6.0), make_solver("rk4", num_steps=400), [[1.0, 0.0]])
    assert figure > 0.5


@pytest.mark.parametrize("name", INTERPOLATING)
def test_stiff_van_der_pol_warns(name):
    """16 nodes over a relaxation oscillation: the gradient is off by 1e4 of itself, and no sensible number would do."""
    field, solver, ts = VanDerPol(10.0), make_solver("dopri5", rtol=1e-5, atol=1e-6), 12 * UNIT
    found, heard = _gradient(name, field, solver, [[2.0, 0.0]], ts)
    true, quiet = _gradient("aca", field, solver, [[2.0, 0.0]], ts)
    assert _off(found, true) > 1e3
    assert not quiet
    (warning,) = heard
    assert warning.category is InaccurateGradientWarning
    assert _told(warning.message) == (pytest.approx(0.87, abs=0.02), 0.01)
    assert "nor could 256; take interpolation_dense, or aca or anode" in str(warning.message)
    dense, quiet = _gradient("interpolation_dense", field, solver, [[2.0, 0.0]], ts)
    assert _off(dense, true) < 1e-2
    assert not quiet


@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-7])
def test_nodes_that_are_advised_do(rtol):
    """Six turns need more than 16 nodes; so many as the warning says are enough, and not three times too many."""
    solver, field, y0 = make_solver("dopri5", rtol=rtol, atol=rtol / 10), Oscillator(6.0), [[1.0, 0.0]]
    _, (warning,) = _gradient("interpolation", field, solver, y0)
    figure, limit = _told(warning.message)
    assert figure > 0.6
    assert limit == pytest.approx(min(0.1, max(0.01, 1000 * rtol)))
    nodes = int(re.search(r"give num_nodes = (\d+)", str(warning.message)).group(1))
    assert not _gradient("interpolation", field, solver, y0, num_nodes=nodes)[1]
    assert _gradient("interpolation", field, solver, y0, num_nodes=nodes // 3)[1]


@pytest.mark.parametrize("name", INTERPOLATING)
def test_kinks_in_time_miss_the_tolerance(name):
    """Small kinks are under every limit of the state's size, and leave 1e4 times the tolerance in the gradient."""
    field, solver = Forced(0.2), make_solver("dopri5", rtol=1e-8, atol=1e-9)
    found, heard = _gradient(name, field, solver, [[1.0]])
    true, quiet = _gradient("aca", field, solver, [[1.0]])
    assert 1e-4 < _off(found, true) < 1e-2
    assert not quiet
    (warning,) = heard
    assert warning.category is MissedToleranceWarning
    figure, limit = _told(warning.message)
    assert 1e-5 == limit < figure < 1e-2
    assert "more than 1000 times the tolerance" in str(warning.message)
    assert not _gradient("interpolation_dense", field, solver, [[1.0]])[1]


def test_a_smooth_field_meets_the_tolerance():
    """The same without kinks: 16 nodes are right to a few tolerances, and nobody says a word."""
    for rtol in (1e-5, 1e-8):
        solver = make_solver("dopri5", rtol=rtol, atol=rtol / 10)
        for name in (*INTERPOLATING, *SOLVING):
            assert not _gradient(name, Decay(1.5), solver, [[1.0], [-2.0]])[1]


@pytest.mark.parametrize("name", SOLVING)
def test_a_tighter_tolerance_that_is_advised_does(name):
    """Contracting dynamics lose ``exp(rate)`` tolerances; the advised ones are tight enough."""
    field, solver = Decay(15.0), make_solver("dopri5", rtol=1e-5, atol=1e-7)
    _, (warning,) = _gradient(name, field, solver, [[1.0]])
    figure, limit = _told(warning.message)
    assert limit == 0.01 < figure < 0.3
    told = re.search(r"solve both ways with rtol = (\S+) and atol = (\S+) or less", str(warning.message))
    tighter = make_solver("dopri5", rtol=float(told.group(1)), atol=float(told.group(2)))
    assert not [w for w in _gradient(name, field, tighter, [[1.0]])[1] if _told(w.message)[0] > limit]


def test_a_state_that_is_lost_has_no_tolerance():
    """Where nothing is left of the start, no tolerance is advised."""
    field, solver = Decay(40.0), make_solver("dopri5", rtol=1e-5, atol=1e-7)
    _, (warning,) = _gradient("adjoint", field, solver, [[1.0]])
    assert _told(warning.message)[0] > 1e3
    assert "solve both ways" not in str(warning.message)
    assert "take aca or anode" in str(warning.message)


def test_prothero_robinson_loses_the_inverse():
    """Of the reversible wrapper at rate 100: the inverse is garbage, and the gradient by 1e60 with it."""
    field, solver = ProtheroRobinson(100.0), make_solver("dopri5", num_steps=50)
    found, (warning,) = _gradient("reversible_rk", field, solver, [[1.0]])
    true, _ = _gradient("naive", field, solver.reversible(0.99), [[1.0]])
    assert abs(float(found[1] / true[1])) > 1e20
    figure, limit = _told(warning.message)
    assert figure > 1e20
    assert limit == 0.1  # fixed steps
    assert "the inverse of the steps magnifies rounding here; take aca or anode" in str(warning.message)


def test_single_precision_is_told_of_double():
    """Mali in float32 on contracting dynamics loses what it keeps in float64."""
    solver = make_solver("alf", num_steps=400)
    found = {}
    for dtype in (torch.float32, torch.float64):
        field, y0 = Decay(18.0).to(dtype), torch.ones(1, 1, dtype=dtype, requires_grad=True)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            build_gradient("mali")(field, solver, y0, UNIT.to(dtype))[-1].sum().backward()
        found[dtype] = [str(w.message) for w in heard]
    assert not found[torch.float64]
    assert len(found[torch.float32]) == 1
    assert "use float64, or take aca or anode" in found[torch.float32][0]


def test_what_is_no_number_is_garbage():
    """NaN is warned of, not passed by a comparison that is false for it."""
    solver = make_solver("dopri5")
    with pytest.warns(InaccurateGradientWarning, match="off by nan of its size"):
        tell(torch.tensor(math.nan), solver, Limits.of(solver), lambda _error, _limit: "nothing helps")


def test_a_state_at_rest_has_no_relative_error():
    """From zero nothing moves: there is no size to be relative to, and nothing is said."""
    for name in (*INTERPOLATING, *SOLVING, "reversible_rk"):
        listener = Listener()
        solver = make_solver("dopri5", rtol=1e-5, atol=1e-6).observed_by(listener)
        y0 = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
        build_gradient(name)(Oscillator(1.0), solver, y0, UNIT)[-1].sum().backward()
        assert listener.figures == [0.0], name


class _Reads(TorchDispatchMode):
    """Counts reads of a tensor by the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "solver"),
    [*((name, "dopri5") for name in (*INTERPOLATING, *SOLVING, "reversible_rk")), ("mali", "alf")],
)
def test_a_backward_pass_reads_one_number_more(name, solver):
    """On fixed steps it reads nothing but the figure, however many outputs there are; the loop's own check excepted."""
    reads = []
    for outputs in (3, 6):
        ts = torch.linspace(0.0, 1.0, outputs, dtype=torch.float64)
        y0 = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
        ys = build_gradient(name)(Oscillator(0.3), make_solver(solver, num_steps=8), y0, ts)
        with _Reads() as seen:
            ys[-1].sum().backward()
        solves = 0 if name in ("reversible_rk", "mali") else outputs - 1  # each is checked for finite numbers on a CPU
        reads.append(seen.count - solves)
    assert reads == [1, 1]


def test_replays_tell_no_figure():
    """A method that keeps or replays its steps has the state itself."""
    for name in ("naive", "anode", "aca", "revolve", "symplectic_adjoint", "interpolation_dense"):
        listener = Listener()
        assert isinstance(listener, ReconstructionObserver)
        _gradient(name, Decay(1.0), make_solver("dopri5").observed_by(listener), [[1.0]])
        assert listener.figures == []


@pytest.mark.parametrize("name", ["linear", "logistic", "rotation", "equilibrium", "quiet_start", "lotka_volterra"])
def test_healthy_tasks_are_far_from_the_limits(name):
    """At the usual tolerance an interpolant is off by a tolerance at most, a solved state by twenty.

    That no method says a word on any offline task, ``test_every_method`` holds: there warnings are errors.
    """
    problem = build_task(name).build("tiny", 0, torch.device("cpu"), torch.float64)
    for method, most in (("interpolation", 1e-5), ("gauss_adjoint", 1e-5), ("adjoint", 2e-4), ("reversible_rk", 1e-3)):
        listener = Listener()
        solver = make_solver("dopri5", rtol=1e-5, atol=1e-5).observed_by(listener)
        problem.loss(solve_with(build_gradient(method), solver), problem.batch(0)).backward()
        assert listener.figures
        assert max(listener.figures) < most
