"""The counted field and the step counter against a field that writes everything down."""

import math

import pytest
import torch
from torch import nn

from odegrad.checks.problems import Recorded, SmoothNet, StepLog
from odegrad.measuring.counting import CountedField, CountedTap, Counts
from odegrad.methods.solvers.solver import make_solver
from odegrad.reference.grids import Budget
from odegrad.registry import build_gradient

METHODS = ["naive", "anode", "aca", "symplectic_adjoint", "adjoint", "interpolation", "torchdiffeq_naive"]


class _Diary(nn.Module):
    """Notes each call and each time a gradient arrives at its output."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls, self.with_graph, self.pulls = inner, 0, 0, 0

    def forward(self, t, y):
        self.calls += 1
        dy = self.inner(t, y)
        if dy.requires_grad:
            self.with_graph += 1
            dy.register_hook(self._note)
        return dy

    def _note(self, grad):
        self.pulls += 1


def _start():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", METHODS)
def test_counts_equal_the_diary(name):
    """Calls, calls with a graph and pull-backs, forward and backward."""
    method, counts = build_gradient(name), Counts()
    diary = _Diary(SmoothNet(d=4, hidden=8))
    field = CountedField(diary, counts)
    solver = make_solver("dopri5", rtol=1e-6, atol=1e-6).observed_by(counts)
    ys = method(field, solver, _start(), torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64))
    loss = (ys[1:] ** 2).sum()
    assert counts.calls["forward"] == diary.calls
    phase = method.traits.backward_phase
    with counts.during(phase):
        loss.backward()
    assert sum(counts.calls.values()) == diary.calls
    assert sum(counts.graph_calls.values()) == diary.with_graph
    assert counts.vjps == {phase: diary.pulls}
    assert counts.accepted_steps["forward"] > 0
    assert counts.phase == "forward"


def test_counting_changes_no_bit():
    """Gradients through the counted field are those of the bare one, second derivatives too."""
    net, y0, ts = SmoothNet(d=4, hidden=8), _start().requires_grad_(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    solver, found = make_solver("rk4", num_steps=5), []
    for field in (net, CountedField(net, Counts())):
        end = build_gradient("naive")(field, solver, y0, ts)[-1]
        (g,) = torch.autograd.grad((end**2).sum(), y0, create_graph=True)
        (h,) = torch.autograd.grad((g**2).sum(), y0)
        found.append((end, g, h))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_tuple_state_counts_one_pull_per_call():
    """A field with two outputs is pulled back once per call, not once per output."""

    class Two(nn.Module):
        def forward(self, t, state):
            return torch.tanh(state[0]), state[1] * state[0]

    counts = Counts()
    y0 = (torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True))
    a, b = CountedField(Two(), counts)(torch.zeros(()), y0)
    (a.sum() + b.sum()).backward()
    assert counts.vjps == {"forward": 1}
    assert counts.graph_calls == {"forward": 1}


def test_structure_and_graph_of_the_output_stay():
    """A list is as good as a tuple, and a part that carries no graph gets none."""

    class Parts(nn.Module):
        def forward(self, t, state):
            return [torch.tanh(state[0]), torch.zeros_like(state[1])]

    counts = Counts()
    a, b = CountedField(Parts(), counts)(torch.zeros(()), (torch.ones(2, requires_grad=True), torch.ones(2)))
    assert (a.requires_grad, b.requires_grad) == (True, False)
    a.sum().backward()
    assert counts.vjps == {"forward": 1}


def test_tap_counts_apart():
    """What a tap evaluates counts under its own phase, in the middle of another."""

    class Tap:
        def sample_times(self, t0, t1):
            return [t0, (t0 + t1) / 2, t1]

        def observe(self, field, t, y, a, weight):
            field(torch.tensor(t, dtype=torch.float64), y)

    counts = Counts()
    method = build_gradient("adjoint").with_tap(CountedTap(Tap(), counts))
    field = CountedField(SmoothNet(d=4, hidden=8), counts)
    ys = method(field, make_solver("dopri5", rtol=1e-6, atol=1e-6), _start(), torch.tensor([0.0, 1.0]).double())
    with counts.during("adjoint"):
        ys.sum().backward()
    assert counts.calls["tap"] == 3
    assert counts.calls["adjoint"] > 0


@pytest.mark.parametrize("ends", [(0.1, 0.7), (0.7, 0.1)])
def test_calls_outside_of_the_interval_count_apart(ends):
    """Both ends belong to it, in either direction, as the time's own dtype holds them: float32(0.7) is above 0.7."""
    counts, interval = Counts(), torch.tensor(ends, dtype=torch.float64)
    field = CountedField(SmoothNet(d=4, hidden=8).float(), counts, interval)
    for t in (0.05, 0.1, 0.4, 0.7, 0.75):
        field(torch.tensor(t, dtype=torch.float32), torch.zeros(1, 4))
    with counts.during("adjoint"):
        field(torch.tensor(0.8), torch.zeros(1, 4))
    assert counts.outside == {"forward": 2, "adjoint": 1}
    assert counts.calls == {"forward": 5, "adjoint": 1}


@pytest.mark.parametrize("told", [[1e-3, 2.0, 0.5], [math.nan, 1.0], [1.0, math.nan, 2.0]])
def test_the_largest_error_of_a_state_counts(told):
    """Of several solves; what is no number is the worst."""
    counts = Counts()
    assert counts.reconstruction_error is None
    for error in told:
        counts.reconstructed(error)
    if any(map(math.isnan, told)):
        assert math.isnan(counts.reconstruction_error)
    else:
        assert counts.reconstruction_error == max(told)


class _WithIntegral(nn.Module):
    """Decay, and beside it an integral that no step is judged by: it is a million times as large."""

    moving, unjudged = 1, 1

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))

    def forward(self, t, y):
        return self.rate * y[0], 1e6 * torch.sin(50 * t) * y[0]


@pytest.mark.parametrize("wrapped", [lambda f: CountedField(f, Counts()), Recorded, Budget().watched])
def test_a_watched_field_takes_the_steps_of_the_bare_one(wrapped):
    """What the field says of its state is said of the wrapper's too; without it the integral would set the steps."""
    y0 = (torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64))
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    taken = {}
    for name, field in (("bare", _WithIntegral()), ("watched", wrapped(_WithIntegral()))):
        log = StepLog()
        build_gradient("naive")(field, make_solver("dopri5", rtol=1e-4, atol=1e-4).observed_by(log), y0, ts)
        taken[name] = log.ends
    assert taken["watched"] == taken["bare"]
    judged = _WithIntegral()
    judged.unjudged, log = 0, StepLog()
    build_gradient("naive")(judged, make_solver("dopri5", rtol=1e-4, atol=1e-4).observed_by(log), y0, ts)
    assert len(log.ends) > 2 * len(taken["bare"])
