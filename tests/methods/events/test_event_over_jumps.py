"""An event that is looked for over known times: before, between and behind doses, with every gradient method."""

import math

import pytest
import torch
from torch import nn

import odegrad
from odegrad.binding import solve_with
from odegrad.checks.conformance import shared_loop_methods
from odegrad.errors import EventError, UnsupportedError, UsageError
from odegrad.event import Event
from odegrad.registry import build_gradient, build_solver

DTYPE = torch.float64
METHODS = sorted(set(shared_loop_methods()) - {"mali", "reversible_rk"})


def number(x, *, trained=False):
    return torch.tensor(x, dtype=DTYPE, requires_grad=trained)


class Decay(nn.Module):
    """Elimination at the rate k."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(number(0.7))

    def forward(self, t, y):
        return -self.k * y


class Level(nn.Module):
    """Where the amount falls through a level."""

    def __init__(self, level):
        super().__init__()
        self.level = nn.Parameter(number(level))

    def forward(self, t, y):
        return y[0, 0] - self.level


ONE = torch.ones(1, 1, dtype=DTYPE)
TIGHT = {"rtol": 1e-9, "atol": 1e-11}


@pytest.mark.parametrize("name", METHODS)
def test_event_behind_a_dose(name):
    """Y = e^(-k t), and + d at tau: it falls through c at tau + ln((e^(-k tau) + d) / c) / k."""
    field, level = Decay(), Level(0.45)
    dose, tau = number(2.0, trained=True), number(1.0, trained=True)
    jumps = [(tau, lambda _t, y: y + dose)]
    t, ys = odegrad.odeint_event(field, ONE, number(0.0), event_fn=level, jumps=jumps, gradient=name, **TIGHT)
    true = tau + torch.log((torch.exp(-field.k * tau) + dose) / level.level) / field.k
    of = [field.k, dose, tau, level.level]
    torch.testing.assert_close(t, true, rtol=1e-8, atol=0.0)
    assert ys[:, 0, 0].tolist() == [1.0, pytest.approx(0.45, abs=1e-14)]
    found, known = (torch.stack(torch.autograd.grad(x, of, retain_graph=True)) for x in (t, true))
    torch.testing.assert_close(found, known, rtol=1e-7, atol=1e-8)


def test_dose_behind_the_event_does_not_come():
    """It would lift the amount, and its time has no gradient; the reset is not even called."""
    tau = number(1.0, trained=True)
    jumps = [(tau, lambda _t, y: pytest.fail("called"))]
    t, _ = odegrad.odeint_event(Decay(), ONE, number(0.0), event_fn=Level(0.9), jumps=jumps, **TIGHT)
    assert math.isclose(float(t.detach()), -math.log(0.9) / 0.7, rel_tol=1e-9)
    (by_tau,) = torch.autograd.grad(t, tau, allow_unused=True)
    assert by_tau is None


@pytest.mark.parametrize("ahead", [1.0, -1.0])
def test_field_that_switches_on_the_way(ahead):
    """Y' = 1 up to tau and 3 behind: y = 2 at tau + (2 - tau) / 3, by tau 2 / 3; the limit is seen."""
    seen, tau = [], number(0.5 * ahead, trained=True)

    def f(t, y):
        seen.append(float(t))
        return ahead * torch.where(t * ahead < 0.5, 1.0, 3.0) * torch.ones_like(y)

    t, _ = odegrad.odeint_event(
        f, torch.zeros(1, dtype=DTYPE), number(0.0), event_fn=lambda _t, y: y[0] - 2.0, reverse_time=ahead < 0,
        options={"jump_t": tau},
    )  # fmt: skip
    assert math.isclose(float(t.detach()), ahead, rel_tol=1e-14)
    assert math.isclose(float(torch.autograd.grad(t, tau)[0]), 2 / 3, rel_tol=1e-12)
    assert 0.5 * ahead not in seen
    assert {math.nextafter(0.5 * ahead, 0.0), math.nextafter(0.5 * ahead, ahead)} <= set(seen)


def test_dose_at_the_start_and_event_at_a_dose():
    """The first comes before anything is solved; at one time with a dose the event is before it."""
    times = [(0.0, lambda _t, y: y + 1.0), (1.0, lambda _t, y: y + 100.0)]
    t, ys = odegrad.odeint_event(Decay(), ONE, number(0.0), event_fn=lambda t, _y: t - 1.0, jumps=times, **TIGHT)
    assert float(t.detach()) == 1.0
    torch.testing.assert_close(ys[:, 0, 0].detach(), torch.tensor([1.0, 2 * math.exp(-0.7)], dtype=DTYPE))


def test_no_event_behind_the_last_dose():
    """The limit is that of the last solve."""
    jumps = [(1.0, lambda _t, y: y + 2.0), (9.0, lambda _t, _y: pytest.fail("behind t_max"))]
    with pytest.raises(EventError, match="zero nowhere up to t_max = 2"):
        odegrad.odeint_event(Decay(), ONE, number(0.0), event_fn=Level(0.45), jumps=jumps, t_max=2.0)


@pytest.mark.parametrize("name", METHODS)
def test_event_that_need_not_be(name):
    """The solve ends at t_max, where the state has the gradient of any solve, by t_max too."""
    field, limit = Decay(), number(0.8, trained=True)
    solve = solve_with(build_gradient(name), build_solver("dopri5", 1e-9, 1e-11))
    end = solve.until(field, ONE, number(0.0), Event(Level(0.45), t_max=limit, required=False))
    assert (end.found, float(end.time.detach())) == (False, 0.8)
    found = torch.stack(torch.autograd.grad(end.states[-1, 0, 0], [field.k, limit]))
    torch.testing.assert_close(found, number([-0.8, -0.7]) * math.exp(-0.56), rtol=1e-7, atol=0.0)
    late = solve.until(field, ONE, number(0.0), Event(Level(0.45), t_max=8.0, required=False))
    assert late.found
    assert math.isclose(float(late.time.detach()), -math.log(0.45) / 0.7, rel_tol=1e-8)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"jumps": [(-1.0, lambda _t, y: y)]}, UsageError, "expected times from t0 = 0 on, got -1"),
        ({"jumps": [(1.0, lambda _t, y: y[0])]}, UsageError, "the reset at t = 1 is expected to return a state"),
        ({"options": {"jump_t": [1.0], "compile": True}}, UnsupportedError, "leave out compile"),
        ({"jumps": [(1.0, abs)], "gradient": "torchdiffeq_naive"}, UnsupportedError, "not told of events"),
    ],
    ids=lambda v: str(v)[:30] if isinstance(v, dict) else None,
)
def test_refusals(settings, error, message):
    """What cannot work is one sentence."""
    with pytest.raises(error, match=message):
        odegrad.odeint_event(Decay(), ONE, number(0.0), event_fn=Level(0.45), **settings)


@pytest.mark.parametrize(("settings", "message"), [
    ({"required": 1}, "required: expected True or False"),
    ({"required": False}, "required: expected True without t_max"),
])  # fmt: skip
def test_event_that_cannot_be(settings, message):
    """Without a limit there is nowhere to end."""
    with pytest.raises(UsageError, match=message):
        Event(Level(0.45), **settings)


@pytest.mark.parametrize("jumps", [[], [(0.3, lambda _t, y: y * 2.0)]])
@pytest.mark.parametrize("interface", [odegrad.odeint, odegrad.odeint_adjoint])
def test_event_that_need_not_be_of_odeint_event(interface, jumps):
    """Without one the solve is that to t_max, with its gradient; what is returned unpacks as torchdiffeq's does."""
    field, limit = Decay(), number(0.8, trained=True)
    by = {"event_fn": Level(0.45), "required": False, "odeint_interface": interface, "jumps": jumps, **TIGHT}
    end = odegrad.odeint_event(field, ONE, number(0.0), t_max=limit, **by)
    t, ys = end
    assert (end.found, float(t.detach())) == (False, 0.8)
    size = 2.0 if jumps else 1.0
    torch.testing.assert_close(ys[-1, 0, 0].detach(), number(size * math.exp(-0.56)), rtol=1e-7, atol=0.0)
    found = torch.stack(torch.autograd.grad(ys[-1, 0, 0], [field.k, limit]))
    torch.testing.assert_close(found, number([-0.8, -0.7]) * size * math.exp(-0.56), rtol=1e-7, atol=0.0)
    late = odegrad.odeint_event(field, ONE, number(0.0), t_max=8.0, **by)
    assert late.found
    assert math.isclose(float(late.event_t.detach()), math.log(size / 0.45) / 0.7, rel_tol=1e-8)


def test_an_event_with_its_own_settings():
    """``Event`` in the place of a function is what it says, and other settings beside it are refused."""
    event = Event(Level(0.45), t_max=0.8, required=False)
    assert not odegrad.odeint_event(Decay(), ONE, number(0.0), event_fn=event).found
    with pytest.raises(UsageError, match="got an Event, which holds these itself; give them to the Event"):
        odegrad.odeint_event(Decay(), ONE, number(0.0), event_fn=event, direction=1)
    with pytest.raises(
        UsageError, match=r"event_fn: expected a function of time and state, or an nn\.Module, got Event"
    ):
        Event(event)
    with pytest.raises(UsageError, match="required: expected True without t_max, got False"):
        odegrad.odeint_event(Decay(), ONE, number(0.0), event_fn=Level(0.45), required=False)
