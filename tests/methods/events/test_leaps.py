"""Signs that change without a zero: poles and jumps of the event function are refused, steep roots are not."""

import math

import pytest
import torch

import odegrad
from odegrad.errors import EventError, NonFiniteError

AT = 1.01
"""Where a clock from zero, y = t, meets what the event functions are of."""


def clock(t, y):
    return torch.ones_like(y)


STEPS = {"dopri5": {}, "rk4": {"method": "rk4", "options": {"step_size": 0.3}}}


def found(g, dtype, steps, *, slow=1.0, **settings):
    y0, t0 = torch.zeros(1, dtype=dtype), torch.tensor(0.0, dtype=dtype)
    by = {"event_fn": g, "t_max": 5.0 / slow, "rtol": 1e-4, "atol": 1e-4, **STEPS[steps], **settings}
    with torch.no_grad():
        return odegrad.odeint_event(lambda _t, y: slow * torch.ones_like(y), y0, t0, **by)[0]


JUMPS = {
    "sign": (lambda _t, y: torch.sign(y[0] - AT), "from -1 to 1"),
    "sign of a number met exactly": (lambda _t, y: torch.sign(y[0] - 1.0), "from -1 to 1"),
    "comparison": (lambda _t, y: (y[0] > AT).to(y) - 0.5, "from -0.5 to 0.5"),
    "floor": (lambda _t, y: torch.floor(y[0]) - 0.5, "from -0.5 to 0.5"),
    "two branches": (lambda _t, y: torch.where(y[0] < AT, y[0] - 2, y[0] + 1), "from -0.99 to 2.01"),
    "branches in time": (lambda t, y: torch.where(t < AT, -1 - y[0], y[0]), "from -2.01 to 1.01"),
    "small on a slope": (lambda _t, y: (y[0] - AT) + 1e-3 * torch.sign(y[0] - AT), "from -0.001 to 0.001"),
    "falling": (lambda _t, y: torch.sign(AT - y[0]), "from 1 to -1"),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", JUMPS)
def test_jumps_are_refused(name, dtype, steps):
    """They were taken for roots, and Newton's steps then led elsewhere: (y - 2 | y + 1) landed at a step's start."""
    g, sides = JUMPS[name]
    with pytest.raises(EventError, match=rf"at t = (1|1\.01) it jumps {sides} and is zero nowhere .* continuous"):
        found(g, dtype, steps)


def test_a_jump_of_a_slow_state_is_refused():
    """Its rounding blurs the jump over many units in the last place of the time."""
    with pytest.raises(EventError, match="at t = 1010 it jumps from -1 to 1"):
        found(JUMPS["sign"][0], torch.float64, "dopri5", slow=1e-3)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "g",
    [
        lambda _t, y: 1 / (y[0] - AT),
        lambda _t, y: torch.tan(y[0] + 1),
        lambda _t, y: torch.sign(y[0] - AT) / (y[0] - AT).abs().sqrt(),
        lambda t, _y: 1 / (AT - t) ** 3,
    ],
)
def test_poles_are_refused(g, dtype, steps):
    """|g| grows towards the change of its sign; where the pole itself is met g is infinite, which says so too."""
    with pytest.raises((EventError, NonFiniteError), match=r"through infinity .* pole|multiply by its denominator"):
        found(g, dtype, steps)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "g",
    [
        lambda _t, y: torch.tanh(1e6 * (y[0] - AT)),
        lambda _t, y: (y[0] - AT) ** 3,
        lambda _t, y: torch.sign(y[0] - AT) * (y[0] - AT).abs() ** (1 / 3),
        lambda _t, y: 1e-12 * (y[0] - AT),
        lambda _t, y: y[0].detach() - AT,
        lambda t, _y: torch.sin(math.pi * t / AT) + 1e-30,
    ],
)
def test_steep_flat_and_tiny_roots_are_found(g, dtype, steps):
    """As steep as 1e6, without a slope or with one that has no bound: continuous functions all."""
    t = found(g, dtype, steps)
    # Of a triple root nothing is known nearer than the third root of the smallest number.
    assert abs(float(t) - AT) < 64 * torch.finfo(dtype).eps


@pytest.mark.parametrize(("steepness", "rtol"), [(1.0, 1e-2), (10.0, 1e-2), (100.0, 1e-4), (1e3, 1e-6)])
def test_steep_functions_of_a_curved_solution(steepness, rtol):
    """The dense output is off by up to half of tanh's rise: five landings are on the root all the same."""

    def circle(_t, y):
        return torch.stack([y[1], -y[0]])

    def g(_t, y):
        return torch.tanh(steepness * (y[0] - 0.3))

    y0, t0 = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    by = {"t_max": 9.0, "rtol": rtol, "atol": rtol}
    with torch.no_grad():
        t, ys = odegrad.odeint_event(circle, y0, t0, event_fn=g, **by)
        plain, _ = odegrad.odeint_event(circle, y0, t0, event_fn=lambda _t, y: y[0] - 0.3, **by)
    assert abs(float(ys[1, 0]) - 0.3) < 1e-12
    assert float(t) == pytest.approx(float(plain), abs=1e-12)


def test_what_the_error_leaps_over_is_refused():
    """Too steep for five landings: half of the way from -1 to 1 is no zero."""

    def circle(_t, y):
        return torch.stack([y[1], -y[0]])

    y0, t0 = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    with torch.no_grad(), pytest.raises(EventError, match=r"it is (-1|1) and not zero: it jumps, or is so steep"):
        odegrad.odeint_event(
            circle, y0, t0, event_fn=lambda _t, y: torch.tanh(1e9 * (y[0] - 0.3)), rtol=1e-2, atol=1e-2
        )
