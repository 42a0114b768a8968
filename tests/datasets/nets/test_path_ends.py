"""Solves that leave the knots of a path: refused before they start, by every method and solver, unless asked for."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odegrad
from odegrad.binding import solve_with
from odegrad.checks.conformance import shared_loop_methods
from odegrad.contracts import event_solve
from odegrad.datasets.nets.paths import Controlled, HermitePath, LinearPath, rectilinear_path
from odegrad.errors import EventError, UsageError
from odegrad.event import Event
from odegrad.methods.fields.interval import known_interval
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

DTYPE = torch.float64
TIMES = torch.tensor([0.5, 1.0, 2.0], dtype=DTYPE)
VALUES = torch.tensor([[[0.0], [1.0], [3.0]]], dtype=DTYPE)
Z0 = torch.zeros(1, 1, dtype=DTYPE)
SAYS = r"ts: expected times from 0\.5 to 2, where the path .* is known, got {}; .*extrapolate=True"


class One(nn.Module):
    """``F(z) = w``: z follows the path."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, 1, 1, dtype=DTYPE))
        self.calls = 0

    def forward(self, z: Tensor) -> Tensor:
        self.calls += 1
        return self.w.expand(len(z), -1, -1)


def driven(**settings: bool) -> tuple[One, Controlled]:
    matrix = One()
    return matrix, Controlled(matrix, LinearPath(TIMES, VALUES, **settings))


def ts(*times: float) -> Tensor:
    return torch.tensor(times, dtype=DTYPE)


@pytest.mark.parametrize("name", [*sorted(shared_loop_methods()), "torchdiffeq_naive", "torchdiffeq_adjoint"])
def test_every_method_refuses(name: str) -> None:
    """Behind the end, before the start, and backwards; no call of the field has been made."""
    matrix, field = driven()
    method = {"mali": "alf"}.get(name, "dopri5")
    for times, outside in (((0.5, 2.5), "2.5"), ((0.0, 1.0), "0"), ((2.0, 1.0, 0.25), "0.25")):
        with pytest.raises(UsageError, match=SAYS.format(outside)):
            odegrad.odeint(field, Z0, ts(*times), method=method, gradient=name)
    assert matrix.calls == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "rk4", "options": {"step_size": 0.1}},
        {"method": "kencarp4"},
        {"method": "implicit_adams"},
        {"method": "scipy_solver"},
        {"options": {"jump_t": [1.0]}, "gradient": "aca"},
        {"jumps": [(1.5, lambda _t, y: y)]},
        {"options": {"batch": "per_sample"}},
    ],
    ids=lambda v: next(iter(v.get("options", v))),
)
def test_every_solver_refuses(settings: Any) -> None:
    """With jumps too, where the first of several solves would be inside."""
    matrix, field = driven()
    with pytest.raises(UsageError, match=SAYS.format("2.5")):
        odegrad.odeint(field, Z0, ts(0.5, 2.5), **settings)
    assert matrix.calls == 0


def test_inside_and_asked_for() -> None:
    """From end to end it is the path; behind it the last piece goes on where that is asked for by name."""
    for field in (driven()[1], driven(extrapolate=True)[1]):
        assert odegrad.odeint(field, Z0, ts(0.5, 2.0))[-1].item() == pytest.approx(3.0, rel=1e-6)
    assert odegrad.odeint(driven(extrapolate=True)[1], Z0, ts(0.5, 3.0))[-1].item() == pytest.approx(5.0, rel=1e-6)
    # An end that is a number of float32 lies a little behind the path's own.
    end = torch.tensor([0.5, 2.0 * (1 + 1e-7)], dtype=torch.float32)
    assert end[1] > 2.0
    assert odegrad.odeint(driven()[1], Z0, end)[-1].item() == pytest.approx(3.0, rel=1e-6)


PATH = LinearPath(TIMES, VALUES)


def of_a_global(_t: Tensor, z: Tensor) -> Tensor:
    return PATH.derivative(_t) + 0 * z


def of_a_closure() -> Callable[[Tensor, Tensor], Tensor]:
    path = PATH
    return lambda t, z: path.derivative(t) + 0 * z


def of_an_argument(path: LinearPath, t: Tensor, z: Tensor) -> Tensor:
    return path.derivative(t) + 0 * z


class Own(nn.Module):
    """A field of a user's own that holds a path."""

    def __init__(self) -> None:
        super().__init__()
        self.path = HermitePath(TIMES, VALUES)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return self.path.derivative(t) + 0 * z


@pytest.mark.parametrize(
    "field", [of_a_global, of_a_closure(), functools.partial(of_an_argument, PATH), Own(), Own().forward]
)
def test_fields_of_ones_own_refuse(field: Any) -> None:
    """Functions too, which read a path by its name."""
    with pytest.raises(UsageError, match=SAYS.format("2.5")):
        odegrad.odeint(field, Z0, ts(0.5, 2.5))
    with pytest.raises(UsageError, match=SAYS.format("2.5")):
        odegrad.odeint_adjoint(field, Z0, ts(0.5, 2.5), adjoint_params=())


def test_several_paths_and_none() -> None:
    """What all of them know; where nothing says, or all of it may go on, there are no ends."""
    other = LinearPath(TIMES - 0.25, VALUES)
    assert known_interval(nn.ModuleList([PATH, other])) == (0.5, 1.75)
    assert known_interval(driven(extrapolate=True)[1]) is None
    assert known_interval(nn.Linear(1, 1)) is None
    assert known_interval(torch.sin) is None


def test_knots_of_a_rectilinear_path_are_its_own() -> None:
    """0 to 2 (length - 1), and not the times of the observations."""
    path = rectilinear_path(TIMES, VALUES)
    assert list(path.knots) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert path.known_between == (0.0, 4.0)
    assert rectilinear_path(TIMES, VALUES, extrapolate=True).known_between is None


@pytest.mark.parametrize("jump_t", [(), (1.0, 2.0)])
def test_events_are_looked_for_up_to_the_end(jump_t: Any) -> None:
    """Z is the path: it meets 2 at 1.5, and 4 nowhere; a limit behind the end is refused."""
    by: Any = {"options": {"jump_t": jump_t}, "rtol": 1e-9}
    t, _ = odegrad.odeint_event(driven()[1], Z0, ts(0.5), event_fn=lambda _t, z: z[0, 0] - 2.0, **by)
    assert t.item() == pytest.approx(1.5, rel=1e-9)
    by["event_fn"] = lambda _t, z: z[0, 0] - 4.0
    with pytest.raises(EventError, match="zero nowhere up to t = 2, the end of the path that drives the field"):
        odegrad.odeint_event(driven()[1], Z0, ts(0.5), **by)
    with pytest.raises(UsageError, match=SAYS.format("3")):
        odegrad.odeint_event(driven()[1], Z0, ts(0.5), t_max=3.0, **by)
    with pytest.raises(UsageError, match=SAYS.format("0")):
        odegrad.odeint_event(driven()[1], Z0, ts(0.0), **by)
    with pytest.raises(EventError, match=r"zero nowhere up to t = 0\.5, the end of the path"):
        odegrad.odeint_event(driven()[1], Z0, ts(2.0), reverse_time=True, **by)
    with pytest.raises(EventError, match="zero nowhere up to t_max = 1; raise t_max"):
        odegrad.odeint_event(driven()[1], Z0, ts(0.5), t_max=1.0, **by)


def test_solves_of_a_task_refuse() -> None:
    """What a problem solves with is held to it too."""
    solve = event_solve(solve_with(build_gradient("aca"), make_solver("dopri5")))
    _, field = driven()
    with pytest.raises(UsageError, match=SAYS.format("2.5")):
        solve(field, Z0, ts(0.5, 2.5))
    with pytest.raises(UsageError, match=SAYS.format("2.5")):
        solve.across(field, Z0, ts(0.5, 2.5), [1.0])
    with pytest.raises(UsageError, match=SAYS.format("2.5")):
        solve.until(field, Z0, ts(0.5), Event(lambda _t, z: z[0, 0] - 2.0, t_max=2.5))


@pytest.mark.parametrize(
    ("channels", "batch", "message"),
    [(2, 1, r"channels\] = \[1, 1, 1\], by 1 samples of 1 channels .* got \[1, 1, 2\]"), (1, 3, r"got \[3, 1, 1\]")],
)
def test_a_matrix_of_other_channels_or_samples_is_refused(channels: int, batch: int, message: str) -> None:
    """Einsum would take the path's one channel, or its one sample, for all of them."""

    class Wide(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z[..., None].expand(-1, -1, channels)

    field = Controlled(Wide(), PATH)
    with pytest.raises(UsageError, match=message):
        odegrad.odeint(field, Z0.expand(batch, -1), ts(0.5, 2.0))
