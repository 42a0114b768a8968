"""E6: where events are found, what that costs, and what is refused."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch
import torchdiffeq
from torch import nn

import odegrad
from odegrad.errors import EventError, NonFiniteError, UnsupportedError, UsageError
from odegrad.event import Event
from odegrad.methods.events.brent import root_between
from odegrad.registry import build_gradient, build_solver

DTYPE = torch.float64


def number(x, *, trained=False):
    return torch.tensor(x, dtype=DTYPE, requires_grad=trained)


class Circle(nn.Module):
    """``y = (cos wt, -sin wt)`` from (1, 0)."""

    def __init__(self, w=1.0):
        super().__init__()
        self.w = nn.Parameter(number(w))

    def forward(self, t, y):
        return self.w * torch.stack([y[1], -y[0]])


START = torch.tensor([1.0, 0.0], dtype=DTYPE)
QUARTER = torch.pi / 2


def first(t, y):
    return y[0]


def clock(t, y):
    return torch.ones_like(y)


@dataclasses.dataclass
class Log:
    accepted_steps: int = 0
    rejected_steps: int = 0
    landings: int = 0
    evaluations: int = 0

    def accepted(self, t, h):
        self.accepted_steps += 1

    def rejected(self, t, h):
        self.rejected_steps += 1

    def ended(self, landings, evaluations):
        self.landings += landings
        self.evaluations += evaluations


class Counted:
    """An event function that counts its calls."""

    def __init__(self, g):
        self.g, self.calls = g, 0

    def __call__(self, t, y):
        self.calls += 1
        return self.g(t, y)


@pytest.mark.parametrize("solver", ["dopri5", "bosh3", "tsit5"])
@pytest.mark.parametrize("name", ["naive", "aca", "interpolation"])
def test_calls_of_a_solve_to_an_event(name, solver):
    """f: start + s (N + R + L), one at the event, and one at a start whose time is trained; g: as it was told."""
    field, g, calls = Circle(), Counted(first), []
    field.register_forward_pre_hook(lambda _module, inputs: calls.append(inputs[0]))
    taken = build_solver(solver, 1e-6, 1e-8, {})
    for t0, more in ((number(0.0), 1), (number(0.0, trained=True), 2)):
        calls.clear()
        log, g.calls = Log(), 0
        taken = taken.observed_by(log)
        t = build_gradient(name).until(field, taken, START, t0, Event(g)).time
        attempts = log.accepted_steps + log.rejected_steps + log.landings
        assert len(calls) == 2 + taken.scheme.evaluations * attempts + more
        assert 1 <= log.landings <= 3
        assert g.calls == log.evaluations
        assert abs(float(t.detach()) - QUARTER) < 1e-5


def test_landing_is_at_the_event_of_the_computed_solution():
    """To four units in the last place g is zero at the end, whatever the tolerance: its own is one of time."""
    for rtol in (1e-3, 1e-6):
        t, ys = odegrad.odeint_event(Circle(), START, number(0.0), event_fn=first, rtol=rtol, atol=rtol)
        assert abs(float(ys[1, 0].detach())) < 1e-15
        assert abs(float(t.detach()) - QUARTER) < 10 * rtol


def test_two_crossings_in_one_step_are_seen():
    """G = (t - 0.3) (t - 0.6) has one sign at both ends of a step from 0 to 1; samples inside tell, ends do not."""
    by = {"method": "rk4", "options": {"step_size": 1.0}, "t_max": 1.0}

    def g(t, y):
        return (t - 0.3) * (t - 0.6)

    t, _ = odegrad.odeint_event(clock, START, number(0.0), event_fn=g, **by)
    assert abs(float(t) - 0.3) < 1e-15
    with pytest.raises(EventError, match=r"crosses zero nowhere up to t_max = 1; raise t_max"):
        odegrad.odeint_event(clock, START, number(0.0), event_fn=g, event_samples=0, **by)
    t, _ = odegrad.odeint_event(clock, START, number(0.0), event_fn=g, direction=1, **by)
    assert abs(float(t) - 0.6) < 1e-15


def test_start_on_the_surface():
    """A zero at the start is left out, or is the event itself, with its gradient."""
    field, y0, t0 = Circle(), torch.tensor([0.0, 1.0], dtype=DTYPE, requires_grad=True), number(0.5, trained=True)
    t, _ = odegrad.odeint_event(field, y0, t0, event_fn=first, rtol=1e-10, atol=1e-12)
    assert abs(float(t.detach()) - 0.5 - torch.pi) < 1e-9
    t, ys = odegrad.odeint_event(field, y0, t0, event_fn=first, first_excluded=False)
    assert float(t.detach()) == 0.5
    assert torch.equal(ys[0], ys[1])
    # The time of a point that moves along y0' = 1: dt*/dy0 = -1 / q, and dt*/dt0 = 1.
    of_y0, of_t0 = torch.autograd.grad(t, [y0, t0])
    torch.testing.assert_close(of_y0, torch.tensor([-1.0, 0.0], dtype=DTYPE))
    assert float(of_t0) == 1.0


def test_rounding_of_a_landing_is_no_crossing():
    """Where the last solve has landed a little behind the surface the next one does not stop at once."""
    for start in (0.5, 0.0):
        for off in (0.0, 3e-16, -3e-16):
            y0 = torch.tensor([off, 1.0], dtype=DTYPE)
            t, _ = odegrad.odeint_event(Circle(), y0, number(start), event_fn=first, rtol=1e-10, atol=1e-12)
            assert abs(float(t.detach()) - start - torch.pi) < 1e-9


def test_event_at_the_end_of_a_step_and_at_the_limit():
    """Y' = 1 reaches 1 where the second of two fixed steps ends, which is t_max too: no step is redone."""
    log = Log()
    solver = build_solver("rk4", 1e-6, 1e-6, {"step_size": 0.5}).observed_by(log)
    y0 = torch.zeros(1, dtype=DTYPE)
    end = build_gradient("naive").until(clock, solver, y0, number(0.0), Event(lambda _t, y: y[0] - 1.0, t_max=1.0))
    assert end.found
    assert float(end.time) == 1.0
    assert abs(float(end.states[1, 0]) - 1.0) < 4e-16
    assert (log.accepted_steps, log.landings) == (2, 0)


def test_direction_and_reverse_time():
    """Cos falls through zero at pi / 2 and rises at 3 pi / 2; backwards it falls along the solve at -pi / 2."""
    by = {"event_fn": first, "rtol": 1e-10, "atol": 1e-12}
    for direction, reverse, true in ((0, 0, 1), (-1, 0, 1), (1, 0, 3), (0, 1, -1), (-1, 1, -1), (1, 1, -3)):
        t, _ = odegrad.odeint_event(Circle(), START, number(0.0), direction=direction, reverse_time=bool(reverse), **by)
        assert abs(float(t.detach()) - true * QUARTER) < 1e-9


@pytest.mark.parametrize("reverse", [False, True])
def test_torchdiffeq_agrees_on_times_and_gradients(reverse):
    """On a smooth problem without parameters of g it is right, to the tolerance that it bisects to."""
    found = []
    for library in (odegrad, torchdiffeq):
        field, y0, t0 = (
            Circle(0.7),
            torch.tensor([1.0, 0.3], dtype=DTYPE, requires_grad=True),
            number(0.2, trained=True),
        )
        t, ys = library.odeint_event(
            field, y0, t0, event_fn=first, reverse_time=reverse, rtol=1e-11, atol=1e-12,
        )  # fmt: skip
        loss = t + ys[-1][1] ** 3
        found.append((t, ys, *torch.autograd.grad(loss, [y0, t0, field.w])))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("gradient", "method", "options", "limit"),
    [
        ("aca", "kencarp4", {"linear": "dense"}, 1e-5),
        ("symplectic_adjoint", "tr_bdf2", {"linear": "dense"}, 1e-4),
        ("naive", "dopri5", {"sees": "tangent"}, 1e-6),
        ("aca", "dopri5", {"outputs": "dense"}, 1e-5),
        ("revolve", "rk4", {"step_size": 0.05}, 1e-5),
        ("anode", "euler", {"step_size": 0.01}, 1e-3),
        ("interpolation", "fehlberg2", {}, 1e-3),
    ],
)
def test_every_kind_of_step_lands(gradient, method, options, limit):
    """Implicit, fixed and dense ones: y = cos(w t) is zero at pi / (2 w), to the solver's error, and to rounding."""
    field = Circle(1.3)
    by = {"method": method, "gradient": gradient, "options": options, "rtol": 1e-6, "atol": 1e-8}
    t, ys = odegrad.odeint_event(field, START, number(0.0), event_fn=first, **by)
    assert abs(float(ys[1, 0].detach())) < 1e-14
    torch.testing.assert_close(t.detach(), number(QUARTER / 1.3), rtol=limit, atol=0.0)
    torch.testing.assert_close(torch.autograd.grad(t, field.w)[0], number(-QUARTER / 1.69), rtol=limit, atol=0.0)


class Fed(nn.Module):
    """``y' = -w y + 1 / 10``, the decay as the stiff half."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(number(2.0))

    def stiff(self, t, y):
        return -self.w * y

    def rest(self, t, y):
        return torch.full_like(y, 0.1)

    def forward(self, t, y):
        return self.stiff(t, y) + self.rest(t, y)


@pytest.mark.parametrize("method", ["tr_bdf2", "kvaerno3", "kencarp4", "kvaerno5", "kencarp4_imex"])
@pytest.mark.parametrize("gradient", ["naive", "aca"])
def test_stiff_steps_land(method, gradient):
    """From 1 to 1/2 in ln((1 - c) / (1/2 - c)) / w with c = 1 / (10 w)."""
    field, y0, limit = Fed(), torch.ones(1, 1, dtype=DTYPE), 1e-4 if method == "tr_bdf2" else 1e-6
    by = {"method": method, "gradient": gradient, "rtol": 1e-7, "atol": 1e-8}
    t, ys = odegrad.odeint_event(field, y0, number(0.0), event_fn=lambda _t, y: y[0, 0] - 0.5, **by)
    c = 0.1 / field.w
    true = torch.log((1 - c) / (0.5 - c)) / field.w
    assert abs(float(ys[1].detach()) - 0.5) < 1e-14
    torch.testing.assert_close(t, true, rtol=limit, atol=0.0)
    of_t, of_true = (torch.autograd.grad(x, field.w)[0] for x in (t, true))
    torch.testing.assert_close(of_t, of_true, rtol=limit, atol=0.0)


def test_random_fields_and_inference_mode():
    """Every call draws the same numbers, that at the event too, so methods agree; inference tensors are fine."""

    class Dropping(Circle):
        def forward(self, t, y):
            return torch.nn.functional.dropout(super().forward(t, y), 0.3)

    def mixed(t, y):
        return t - 0.5 + 0.01 * y.sum()

    found = []
    for gradient in ("naive", "aca"):
        torch.manual_seed(3)
        field, y0 = Dropping(), torch.ones(2, 8, dtype=DTYPE)
        t, _ = odegrad.odeint_event(field, y0, number(0.0), event_fn=mixed, t_max=20.0, gradient=gradient)
        found.append((float(t.detach()), float(torch.autograd.grad(t, field.w)[0])))
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    with torch.inference_mode():
        t, _ = odegrad.odeint_event(Circle(), START.clone(), number(0.0), event_fn=first, rtol=1e-9)
    assert abs(float(t) - QUARTER) < 1e-8


def test_torchdiffeqs_odeint_event_on_this_odeint():
    """Its own rerouting takes the gradient at a fixed time: ``odeint`` with ``event_fn`` gives it that."""
    field, y0 = Circle(), torch.tensor([1.0, 0.3], dtype=DTYPE, requires_grad=True)
    found = []
    for outer in (torchdiffeq.odeint_event, odegrad.odeint_event):
        t, ys = outer(field, y0, number(0.0), event_fn=first, odeint_interface=odegrad.odeint, gradient="adjoint")
        found.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(t + ys[-1][1], [y0, field.w])]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_time_of_odeint_has_no_gradient_and_says_so():
    """Torchdiffeq's ``odeint`` returns a time without one, in silence; here asking for it raises."""
    t, ys = odegrad.odeint(Circle(), START, torch.tensor([0.0, 1.0], dtype=DTYPE), event_fn=first)
    ys.sum().backward(retain_graph=True)
    with pytest.raises(UnsupportedError, match=r"the event's time has no gradient here.*use odegrad.odeint_event"):
        t.backward()


def test_tuples_no_grad_and_float32():
    """States may be tuples; under no_grad nothing has a graph; float32 lands to what float32 can tell."""

    def oscillator(t, y):
        return y[1], -y[0]

    y0 = (torch.ones(1), torch.zeros(1))
    with torch.no_grad():
        t, (a, b) = odegrad.odeint_event(
            oscillator, y0, torch.tensor(0.0), event_fn=lambda _t, y: y[0], rtol=1e-5, atol=1e-5
        )
    assert t.dtype == torch.float32
    assert abs(float(t) - QUARTER) < 1e-4
    assert abs(float(a[1])) < 1e-6
    assert abs(float(b[1]) + 1.0) < 1e-4


def test_event_function_may_call_autograd():
    """G = dV/dy of a potential V, which torchdiffeq calls without a graph (its issue 179)."""

    def slope(t, y):
        (found,) = torch.autograd.grad((0.5 * y[0] ** 2).sum(), y, create_graph=True)
        return found[0]

    field = Circle()
    t, _ = odegrad.odeint_event(field, START, number(0.0), event_fn=slope, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(t, field.w)[0], number(-QUARTER), rtol=1e-8, atol=0.0)


def test_second_derivative_raises():
    """It would be wrong: the rate and the field at the event are constants of the first."""
    field = Circle()
    t, _ = odegrad.odeint_event(field, START, number(0.0), event_fn=first)
    (once,) = torch.autograd.grad(t, field.w, create_graph=True)
    with pytest.raises(UnsupportedError, match="the gradient by the time of an event has no second derivative"):
        once.backward()


def test_the_examples_of_the_document(capsys):
    """They print what their comments say, which is what closed forms say: t1 is the time of the first bounce."""
    page = Path(__file__).parents[3] / "docs" / "events.md"
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(block, str(page), "exec"), names)
        assert capsys.readouterr().out.strip() == block.split("# ")[-1].strip()
    t1, left = (2 / 9.81) ** 0.5, 2 * math.exp(-1)
    fallen = 1.0 + math.log((math.exp(-0.5) + 2.0) / 0.4) / 0.5
    assert names["fallen"].item() == pytest.approx(fallen, rel=1e-6)
    assert names["t"].item() == pytest.approx(t1 * (1 + 2 * 0.8 + 2 * 0.64), rel=1e-12)
    assert names["by_restitution"].item() == pytest.approx(t1 * (2 + 4 * 0.8), rel=1e-12)
    assert [names["amount"].item(), *(g.item() for g in names["by"])] == pytest.approx(
        [left, left / 2, left / 2, -2 * left], rel=1e-6
    )


SHIFT = number(0.5, trained=True)


@pytest.mark.parametrize(
    ("g", "settings", "error", "message"),
    [
        (lambda t, y: (t - 1.0) ** 3, {}, EventError, "its derivatives by time and state are zero, .* it grazes zero"),
        (lambda t, y: (t - 1.0).detach(), {}, EventError, "depends on neither by differentiable operations"),
        (lambda t, y: y[0] + 2, {"t_max": 3.0}, EventError, "crosses zero nowhere up to t_max = 3"),
        (lambda t, y: y[0] + 2, {"options": {"max_steps": 30}}, EventError, "nowhere in 30 attempted steps"),
        (
            lambda t, y: y[0] + 2,
            {"method": "rk4", "options": {"step_size": 0.5, "max_steps": 20}},
            EventError,
            "nowhere in 20 attempted steps, which reach t = 10",
        ),
        (lambda t, y: y, {}, UsageError, r"expected one number, got a tensor of shape \(2,\)"),
        (lambda t, y: 1.0, {}, UsageError, "expected one floating-point number as a tensor, got float"),
        (lambda t, y: y[0] - SHIFT, {}, UsageError, r"tensor of shape \(\) that requires a gradient .* closure"),
        (lambda t, y: torch.log(0.5 - t), {}, NonFiniteError, "event_fn: it is nan at t = "),
        (first, {"method": "alf", "gradient": "mali"}, UnsupportedError, "alf cannot end at an event: it has no dense"),
        (first, {"method": "dopri8"}, UnsupportedError, "it has no dense output.* use dopri5, tsit5, bosh3 or rk4"),
        (
            first,
            {"method": "rodas5p"},
            UnsupportedError,
            "rodas5p cannot end at .* use kencarp4, kvaerno5 or",
        ),
        (first, {"method": "implicit_euler"}, UnsupportedError, "implicit_euler cannot end at .* use kencarp4"),
        (first, {"method": "implicit_midpoint"}, UnsupportedError, "implicit_midpoint cannot end at .* use kencarp4"),
        (first, {"gradient": "reversible_rk"}, UnsupportedError, "reversible_dopri5 cannot end at an event"),
        (first, {"method": "rk4"}, UnsupportedError, "its steps are fixed .* give step_size"),
        (first, {"gradient": "torchdiffeq_naive"}, UnsupportedError, "solves by another library"),
        (first, {"odeint_interface": torchdiffeq.odeint}, UsageError, "odeint_interface: expected odegrad.odeint"),
        (first, {"t_max": -1.0}, UsageError, "t_max: expected a time behind t0 = 0, got -1"),
        (first, {"t_max": "3"}, UsageError, "t_max: expected one time, a number or a tensor of one, got '3'"),
        (first, {"t_max": torch.ones(2)}, UsageError, r"t_max: expected one time, .* got tensor\(\[1"),
        (first, {"t_max": float("inf")}, UsageError, "t_max: expected a finite time or None"),
        (first, {"direction": 2}, UsageError, "direction: expected -1"),
        (first, {"event_samples": -1}, UsageError, "event_samples: expected a whole number"),
        (first, {"first_excluded": 1}, UsageError, "first_excluded: expected True or False"),
        ("y", {}, UsageError, "event_fn: expected a function of time and state"),
    ],
    ids=lambda v: None if callable(v) or isinstance(v, type) else str(v)[:40],
)
def test_refusals(g, settings, error, message):
    """What cannot work is one sentence."""
    with pytest.raises(error, match=message):
        odegrad.odeint_event(Circle(), START, number(0.0), event_fn=g, **settings)


def test_grazing_is_refused_where_a_derivative_is_wanted():
    """Y = t passes g = (y - 1)^3 + (y - t) at the rate 3 (y - 1)^2: zero at the root, beside derivatives of 1."""
    y0 = torch.zeros(1, dtype=DTYPE, requires_grad=True)

    def g(t, y):
        return (y[0] - 1) ** 3 + (y[0] - t)

    with pytest.raises(EventError, match=r"at t = 1 it grazes zero: its rate along the solution, .* has no derivative"):
        odegrad.odeint_event(clock, y0, number(0.0), event_fn=g)
    with torch.no_grad():
        t, _ = odegrad.odeint_event(clock, y0, number(0.0), event_fn=g)
    assert abs(float(t) - 1.0) < 1e-5


def test_a_touch_says_how_near_it_came_and_what_is_not_a_number_behind_the_event():
    """A ball that just reaches a height does not cross it; the root of y - 1/2 - 1/100 is before that of y < 1/2."""

    def falling(_t, y):
        return torch.stack([y[1], torch.full_like(y[1], -1.0)])

    y0, by = torch.tensor([0.0, 1.0], dtype=DTYPE), {"t_max": 1.5}
    with pytest.raises(EventError, match=r"zero nowhere .* it comes to .* at t = .* raise event_samples"):
        odegrad.odeint_event(falling, y0, number(0.0), event_fn=lambda _t, y: y[0] - 0.5, **by)
    t, _ = odegrad.odeint_event(
        clock, torch.zeros(1, dtype=DTYPE), number(0.0), method="rk4", options={"step_size": 1.0},
        event_fn=lambda _t, y: torch.log(0.8 - y[0]) - math.log(0.55),
    )  # fmt: skip
    assert float(t) == pytest.approx(0.25, abs=1e-15)


def test_closures_are_fine_where_nobody_wants_a_gradient():
    """As for fields: under no_grad nothing can be lost."""
    with torch.no_grad():
        t, _ = odegrad.odeint_event(Circle(), START, number(0.0), event_fn=lambda t, y: y[0] - SHIFT, rtol=1e-10)
    assert abs(float(t) - torch.pi / 3) < 1e-8


def test_more_refusals():
    """Start times that are none, and output times behind the event."""
    with pytest.raises(UsageError, match="t0: expected a floating-point tensor of one time, got float"):
        odegrad.odeint_event(Circle(), START, 0.0, event_fn=first)
    with pytest.raises(UsageError, match="t: expected two times with event_fn"):
        odegrad.odeint(Circle(), START, torch.linspace(0, 1, 3), event_fn=first)


def test_events_that_accumulate_are_refused():
    """A hundred events that do not move the time: each solve starts where g is zero and is told to stop there."""
    t, y = number(1.0), torch.tensor([0.0, 1.0], dtype=DTYPE)
    for _ in range(99):
        t, ys = odegrad.odeint_event(Circle(), y, t, event_fn=first, first_excluded=False)
        y = ys[1]
    with pytest.raises(EventError, match="100 events in a row came within 4 units in the last place of t = 1"):
        odegrad.odeint_event(Circle(), y, t, event_fn=first, first_excluded=False)


def test_parameters_of_the_field_in_an_event_function_have_their_gradient():
    """A function that reads a parameter of the field is no closure over a stranger: y0 e^-kt = k."""

    class Decay(nn.Module):
        def __init__(self):
            super().__init__()
            self.k = nn.Parameter(number(0.5))

        def forward(self, t, y):
            return -self.k * y

    field, y0 = Decay(), torch.ones(1, 1, dtype=DTYPE)
    t, _ = odegrad.odeint_event(
        field, y0, number(0.0), event_fn=lambda _t, y: y[0, 0] - field.k, gradient="aca", rtol=1e-11, atol=1e-12
    )
    # t* = -ln(k) / k
    (found,) = torch.autograd.grad(t, field.k)
    k = 0.5
    true = (torch.log(torch.tensor(k, dtype=DTYPE)) - 1) / k**2
    torch.testing.assert_close(found, true, rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("of", [lambda x: x**3 - 2, lambda x: (x - 0.7) * 1e-8, lambda x: torch.tanh(50 * (x - 1.9))])
def test_root_between(of):
    """To four units in the last place, on either order of the bracket."""

    def g(x):
        return float(of(torch.tensor(x, dtype=DTYPE)))

    for a, b in ((0.0, 2.0), (2.0, 0.0)):
        root = root_between(g, a, g(a), b, g(b)).at
        assert g(root) == 0.0 or g(root * (1 - 2e-15)) * g(root * (1 + 2e-15)) < 0
