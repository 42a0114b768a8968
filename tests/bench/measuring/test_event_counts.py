"""The count pass on solves that end at events or go over jumps: landings, evaluations, predicted and measured calls."""

import pytest
import torch
from torch import nn

from odegrad.binding import solve_with
from odegrad.checks.conformance import shared_loop_methods
from odegrad.contracts import event_solve
from odegrad.errors import UnsupportedError
from odegrad.event import Event
from odegrad.measuring.call_counts import count_columns
from odegrad.methods.solvers.solver import make_solver
from odegrad.reference.subject import Subject
from odegrad.registry import build_gradient

DTYPE = torch.float64
COUNTED = ("nfe_forward", "nfe_backward", "vjps")
REFUSE = {"mali", "reversible_rk"}
METHODS = sorted(set(shared_loop_methods()) - REFUSE)
SOLVERS = {
    "dopri5": make_solver("dopri5", rtol=1e-5, atol=1e-7),
    "fixed": make_solver("rk4", step_size=0.1),
    "first stage not reused": make_solver("fehlberg2", rtol=1e-4, atol=1e-6),
}


class Swinging(nn.Module):
    """A damped pendulum, whose steps are rejected now and then."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(2.0, dtype=DTYPE))
        self.damping = nn.Parameter(torch.tensor(0.1, dtype=DTYPE))

    def forward(self, t, y):
        return torch.stack([y[:, 1], -(self.rate**2) * torch.sin(y[:, 0]) - self.damping * y[:, 1]], dim=1)


class Counting(nn.Module):
    """The angle, which falls through zero; writes down how often it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def forward(self, t, y):
        self.asked += 1
        return y[0, 0]


class Log:
    """Hears of landings."""

    def __init__(self):
        self.heard = []

    def accepted(self, t, h):
        pass

    def rejected(self, t, h):
        pass

    def ended(self, landings, evaluations):
        self.heard.append((landings, evaluations))


def two_swings(event_fn):
    """Return the time of the second fall through zero, its velocity reversed at the first, plus the state after 1."""
    field, y0 = Swinging(), torch.tensor([[2.0, 0.0]], dtype=DTYPE, requires_grad=True)

    def loss(solve):
        solve, t, y = event_solve(solve), torch.zeros((), dtype=DTYPE), y0
        for _ in range(2):
            end = solve.until(field, y, t, Event(event_fn))
            t, y = end.time, end.states[-1] * torch.tensor([1.0, -0.9], dtype=DTYPE)
        missed = solve.until(field, y, t, Event(event_fn, t_max=t.detach() + 0.01, required=False))
        assert not missed.found
        last = solve(field, missed.states[-1], torch.stack([missed.time, missed.time + 1.0]))
        return t + last[-1].sum()

    return Subject(loss, (field.rate, field.damping, y0), (field,))


@pytest.mark.filterwarnings("ignore::odegrad.errors.InaccurateGradientWarning")
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", METHODS)
def test_predicted_calls_are_the_counted_ones(name, solver):
    """The calls of landings and of times are in the prediction; what an observer hears is in the columns."""
    event_fn, log = Counting(), Log()
    found = count_columns(two_swings(event_fn), build_gradient(name), SOLVERS[solver])
    assert {k: found[f"predicted_{k}"] for k in COUNTED} == {k: found[k] for k in COUNTED}
    assert found["nfe_outside"] == 0
    event_fn.asked = 0
    two_swings(event_fn).loss(solve_with(build_gradient(name), SOLVERS[solver].observed_by(log)))
    assert len(log.heard) == 3
    assert found["event_landings"] == sum(landings for landings, _ in log.heard)
    assert found["event_evaluations"] == sum(evaluations for _, evaluations in log.heard) == event_fn.asked
    assert 2 <= found["event_landings"] <= 10


@pytest.mark.parametrize("name", METHODS)
def test_calls_over_jumps_are_predicted(name):
    """A solve that goes on with the step size of the one before chooses none: a call less than a fresh one."""
    field, y0 = Swinging(), torch.tensor([[2.0, 0.0]], dtype=DTYPE, requires_grad=True)
    ts = torch.tensor([0.0, 0.5, 2.0], dtype=DTYPE)
    subject = Subject(
        lambda solve: event_solve(solve).across(field, y0, ts, [0.7, 1.1])[-1].sum(), (field.rate, y0), (field,)
    )
    found = count_columns(subject, build_gradient(name), make_solver("dopri5", rtol=1e-5, atol=1e-7))
    assert {k: found[f"predicted_{k}"] for k in COUNTED} == {k: found[k] for k in COUNTED}
    assert found["event_landings"] is found["event_evaluations"] is None
    if name != "forward_sensitivity":
        attempts = found["accepted_steps"] + found["rejected_steps"]
        assert found["nfe_forward"] == 2 + 6 * attempts + 2


@pytest.mark.filterwarnings("ignore::odegrad.errors.InaccurateGradientWarning")
@pytest.mark.parametrize("first_step", [None, 0.4])
@pytest.mark.parametrize("name", METHODS)
def test_first_stages_that_are_kept_are_no_calls(name, first_step):
    """A rejected attempt of adaptive Heun steps saves one call: its first stage is known, and is none of the last."""
    field, y0 = Swinging(), torch.tensor([[2.0, 0.0]], dtype=DTYPE, requires_grad=True)
    ts = torch.tensor([0.0, 1.0, 2.0], dtype=DTYPE)
    subject = Subject(lambda solve: solve(field, y0, ts)[-1].sum(), (field.rate, y0), (field,))
    solver = make_solver("adaptive_heun", rtol=1e-3, atol=1e-4, first_step=first_step)
    found = count_columns(subject, build_gradient(name), solver)
    assert found["rejected_steps"] > 0
    assert {k: found[f"predicted_{k}"] for k in COUNTED} == {k: found[k] for k in COUNTED}


@pytest.mark.parametrize("name", [*sorted(REFUSE), "torchdiffeq_naive"])
def test_what_cannot_end_at_events_says_so(name):
    """The reason is the row's message."""
    solver = make_solver("alf" if name == "mali" else "dopri5")
    with pytest.raises(UnsupportedError, match=r"event_fn: .*(it has no dense output|solves by another library)"):
        count_columns(two_swings(Counting()), build_gradient(name), solver)


def test_a_plain_function_is_no_solve_to_events():
    """A task says what it wants."""
    with pytest.raises(UnsupportedError, match="expected one that can end at events and go over jumps, got function"):
        event_solve(lambda field, y0, ts: None)
