"""Events that accumulate: nothing falls through the floor, and the end is a sentence that says when."""

import math

import pytest
import torch

import odegrad
from odegrad.errors import EventError
from odegrad.event import Event
from odegrad.registry import build_gradient, build_solver

GRAVITY = 9.81
FIRST = math.sqrt(2 / GRAVITY)
"""When a ball from a height of 1 meets the floor."""


def falling(t, y):
    return torch.stack([y[1], torch.full_like(y[1], -GRAVITY)])


def height(t, y):
    return y[0]


def bounce(times, restitution, dtype, *, keeps_height, rtol):
    """Append the times of the bounces; each must have zero height, to less than what one unit of the time moves it."""
    t, y = torch.tensor(0.0, dtype=dtype), torch.tensor([1.0, 0.0], dtype=dtype)
    while True:
        t, ys = odegrad.odeint_event(falling, y, t, event_fn=height, t_max=50.0, rtol=rtol, atol=rtol)
        assert ys[1, 1] <= 0
        assert abs(float(ys[1, 0])) <= torch.finfo(dtype).eps ** 2
        times.append(float(t))
        # A time that is a new tensor knows nothing of the events before.
        t = t.detach() + 0.0
        y = torch.stack([torch.zeros((), dtype=dtype) if keeps_height else ys[1, 0], -restitution * ys[1, 1]])


@pytest.mark.parametrize("keeps_height", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("restitution", "rtol"), [(0.02, 1e-6), (0.1, 1e-3), (0.3, 1e-6), (0.5, 1e-3)])
def test_a_ball_that_comes_to_rest(restitution, rtol, dtype, keeps_height):
    """Bounce k is at t1 (1 + 2 e + ... + 2 e^k), and all of them before t1 (1 + e) / (1 - e), which the error names."""
    times, last = [], FIRST * (1 + restitution) / (1 - restitution)
    with pytest.raises(EventError, match=r"its zeros accumulate .* \(Zeno's paradox\).* end the solve there") as raised:
        bounce(times, restitution, dtype, keeps_height=keeps_height, rtol=rtol)
    digits, true = 256 * torch.finfo(dtype).eps * last, FIRST
    for k, time in enumerate(times):
        assert abs(time - true) < digits
        true += 2 * restitution ** (k + 1) * FIRST
    assert abs(true - last) < digits
    assert abs(float(str(raised.value).split("t = ")[1].split()[0]) - last) < 1e-5 * last + digits


def bounce_on(floor, restitution, *, reset):
    """Bounce on a floor of any height until it is over; each bounce must come from above."""
    t, y = torch.tensor(0.0, dtype=torch.float64), torch.tensor([floor + 1.0, 0.0], dtype=torch.float64)
    while True:
        t, ys = odegrad.odeint_event(falling, y, t, event_fn=lambda _t, y: y[0] - floor, t_max=50.0, rtol=1e-6)
        assert ys[1, 1] < 0
        y = torch.stack([torch.full_like(ys[1, 0], floor) if reset else ys[1, 0], -restitution * ys[1, 1]])


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("floor", [0.1, -3.0, 1e4])
@pytest.mark.parametrize("restitution", [0.1, 0.5])
def test_a_floor_of_any_height(restitution, floor, reset):
    """A flight lower than what rounding leaves of the floor's height is none: the ball fell through."""
    with pytest.raises(EventError, match="its zeros accumulate at t = ") as raised:
        bounce_on(floor, restitution, reset=reset)
    last = FIRST * (1 + restitution) / (1 - restitution)
    # What is left of the flights when they are as low as a few units in the last place of the height.
    left = 2 * math.sqrt(2 * 64 * torch.finfo(torch.float64).eps * max(abs(floor), 1.0) / GRAVITY)
    assert float(str(raised.value).split("t = ")[1].split()[0]) == pytest.approx(
        last, abs=1e-5 + left / (1 - restitution)
    )


def test_a_slow_rebound_does_not_see_the_last_digit_of_the_landing():
    """Four units in the last place of the time are 1e-13 of height at a speed of 443: the rebound is one in 1e5."""
    t, y = torch.tensor(0.0, dtype=torch.float64), torch.tensor([1e4, 0.0], dtype=torch.float64)
    t, ys = odegrad.odeint_event(falling, y, t, event_fn=height, rtol=1e-3)
    y = torch.stack([ys[1, 0], -1e-5 * ys[1, 1]])
    again, _ = odegrad.odeint_event(falling, y, t, event_fn=height, rtol=1e-3)
    assert float(again - t) == pytest.approx(2e-5 * math.sqrt(2e4 / GRAVITY), rel=1e-9)


def test_a_landing_as_near_as_rounding_lets_it():
    """Coefficients of tsit5 leave hundreds of units in the last place of a long step, and g on the wrong side."""
    t, y = torch.tensor(0.0, dtype=torch.float64), torch.tensor([3.8358581211307743, -0.85], dtype=torch.float64)
    by = {"event_fn": lambda _t, y: y[0] - 1.0, "method": "tsit5", "rtol": 1e-2, "atol": 1e-2, "t_max": 1e3}
    for _ in range(8):
        t, ys = odegrad.odeint_event(falling, y, t, **by)
        assert ys[1, 1] < 0
        y = torch.stack([ys[1, 0], -0.5 * ys[1, 1]])


class Falling(torch.nn.Module):
    """The same as a module."""

    def forward(self, t, y):
        return falling(t, y)


def bounce_in_a_task():
    method, solver, field = build_gradient("aca"), build_solver("dopri5", 1e-6, 1e-6), Falling()
    t, y = torch.tensor(0.0, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    while True:
        end = method.until(field, solver, y, t, Event(height, direction=-1))
        t, y = end.time, end.states[1] * torch.tensor([1.0, -0.1], dtype=torch.float64)


def test_a_solve_of_a_task_says_so_too():
    """Between its solves nobody counts the events."""
    with pytest.raises(EventError, match=r"its zeros accumulate at t = 0\.5518"):
        bounce_in_a_task()


def test_a_ball_that_lies_on_the_floor_says_where_it_started():
    """Its reset leaves no speed: it starts at zero and goes below, which is no crossing behind the start."""
    t, y = torch.tensor(1.0, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    with pytest.raises(EventError, match=r"zero nowhere behind t = 1 \(where the solve starts on it\) up to t_max = 3"):
        odegrad.odeint_event(falling, y, t, event_fn=height, t_max=3.0)


def test_two_events_that_are_near_are_no_accumulation():
    """A flight of 1e-10 takes 4e5 units in the last place of the time: it is an event as any."""
    t, speed = torch.tensor(1.0, dtype=torch.float64), 1e-10 * GRAVITY / 2
    y = torch.tensor([0.0, speed], dtype=torch.float64)
    end, _ = odegrad.odeint_event(falling, y, t, event_fn=height)
    assert float(end) - 1.0 == pytest.approx(1e-10, abs=1e-15)
