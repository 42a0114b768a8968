"""A solve whose last time is not known before: each accepted step is searched for the end, and redone to land on it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from odegrad.methods.solvers.stepper import Stepper

MAX_LANDINGS = 5
"""So often a step is redone to end where the event is."""

CLOSE_ENOUGH = 4
"""A landing that is off by so many units in the last place of the time is the last one."""

Dense = Callable[[Sequence[float]], Tensor]
"""The states ``[m, d]`` at fractions of a step, from its continuous extension; no f call."""


class EndSearch(Protocol):
    """Knows where a solve is to end."""

    def begin(self, t: float, y: Tensor, rate: Tensor, ahead: float) -> None:
        """Hear where the solve starts; ``rate [d]`` is f there, and ``ahead`` is 1.0 or -1.0, the way the time runs."""
        ...

    def end_in(self, t: float, h: float, t_next: float, y_next: Tensor, dense: Dense) -> float | None:
        """Return the earliest end in the step ``(t, t_next]`` by its dense output, None if there is none."""
        ...

    def ends_at(self, t: float, y: Tensor, rate: Tensor) -> bool:
        """Return whether a limit ``t`` without an end before it is the end itself, to rounding."""
        ...

    def shift(self, t: float, y: Tensor, rate: Tensor) -> tuple[float, float]:
        """Return how far the end is from ``t``, where a step has landed on ``y [d]``; ``rate`` is f there.

        And the size of what is zero at the end.
        """
        ...

    def landed(self, landings: int) -> None:
        """Hear how often the last step was redone, up to where ``shift`` was asked last.

        Raises
        ------
        EventError
            If the end is not there.
        """
        ...

    def ends_without(self) -> bool:
        """Hear that the limit is reached without the end; return whether the solve ends there all the same."""
        ...

    def missed(self, t: float, attempts: int | None) -> Exception:
        """Return what to raise: ``t`` is reached without the end, which is the limit, or after so many steps."""
        ...


class OpenTimes(list[float]):
    """Start and end of a solve, ``[t0, t1]``; t1 is the limit up to which ``search`` looks, and then what it found."""

    def __init__(self, start: float, limit: float, search: EndSearch) -> None:
        super().__init__((start, limit))
        self.search = search


@dataclass(frozen=True)
class Landing:
    """A step that was redone: its signed size, its end, and the carried vector there."""

    h: float
    t_next: float
    x_next: Tensor


def begin(times: OpenTimes, stepper: Stepper, x: Tensor, d: int) -> None:
    """Tell the search where the solve starts, the carried vector ``x`` with the state in its first ``d`` numbers."""
    t, limit = times
    times.search.begin(t, x[:d].detach(), stepper.rate(t, x)[:d].detach(), math.copysign(1.0, limit - t))


def _dense(stepper: Stepper, x: Tensor, h: float, d: int) -> Dense:
    def states(thetas: Sequence[float]) -> Tensor:
        with torch.no_grad():
            return stepper.dense(x, h, thetas)[:, :d].detach()

    return states


def landed(
    times: OpenTimes, stepper: Stepper, t: float, h: float, t_next: float, x: Tensor, x_next: Tensor, d: int
) -> Landing | None:
    """Return the step from ``t`` redone to end where the event is, None if the attempt ``x_next`` is to stay.

    The dense output, which finds it, is off by its own error: so the step is redone up to there, and once more up to
    where its own end, by one step of Newton's, puts the event. ``s`` f calls for each.

    Raises
    ------
    EventError
        If the step reaches the limit, and the end is not there.
    """
    with torch.no_grad():
        end = times.search.end_in(t, h, t_next, x_next[:d].detach(), _dense(stepper, x, h, d))
    if end is None and t_next == times[1]:
        at_limit = times.search.ends_at(t_next, x_next[:d].detach(), _rate_at_end(stepper, x, h, d))
        if not at_limit and times.search.ends_without():
            return None
        if not at_limit:
            raise times.search.missed(t_next, None)
        end = t_next
    if end is None:
        return None
    low, high = bounds = sorted((math.nextafter(t, t_next), t_next))
    landings, size = 0, h
    if end != t_next:
        end = min(max(end, low), high)
        landings, size = 1, end - t
        x_next = stepper.attempt(t, size, end, x)
    close = CLOSE_ENOUGH * spacing(max(abs(t), abs(end)), x.dtype)
    best = math.inf, end
    while True:
        shift, off = times.search.shift(end, x_next[:d].detach(), _rate_at_end(stepper, x, size, d))
        best = min(best, (off, end))
        if abs(shift) <= close or landings == MAX_LANDINGS:
            break
        low, high = (end, high) if shift > 0 else (low, end)
        moved = min(max(end + shift, bounds[0]), bounds[1])
        # Where g is flat Newton's step is too long: between what has turned out to be too early and too late.
        if not low <= moved <= high:
            moved = 0.5 * (low + high)
        if moved == end:
            break
        end, size, landings = moved, moved - t, landings + 1
        x_next = stepper.attempt(t, size, end, x)
    if best[1] != end:
        # Newton's steps lead away from where a slope has no bound.
        end, size, landings = best[1], best[1] - t, landings + 1
        x_next = stepper.attempt(t, size, end, x)
        times.search.shift(end, x_next[:d].detach(), _rate_at_end(stepper, x, size, d))
    times.search.landed(landings)
    times[1] = end
    return Landing(size, end, x_next)


def open_grid(times: OpenTimes, step_size: float, max_steps: int) -> Iterator[tuple[float, float]]:
    """Yield size and end of fixed steps as long as they are asked for, the last one cut at the limit.

    Raises
    ------
    EventError
        After ``max_steps``.
    """
    start, limit = times
    t, h = start, math.copysign(step_size, limit - start)
    for i in range(max_steps):
        # From the start, not from the step before: rounding errors of many sums would add up.
        t_next = start + (i + 1) * h
        if abs(t_next - start) >= abs(limit - start):
            yield limit - t, limit
            return
        yield h, t_next
        t = t_next
    raise times.search.missed(t, max_steps)


def spacing(t: float, dtype: torch.dtype) -> float:
    """Return the distance of neighbouring times at ``t`` as a field sees them that computes in ``dtype``."""
    return math.ulp(t) * max(1.0, torch.finfo(dtype).eps / torch.finfo(torch.float64).eps)


@torch.no_grad()
def _rate_at_end(stepper: Stepper, x: Tensor, h: float, d: int) -> Tensor:
    """Return dy/dt ``[d]`` at the end of the last attempt, by its continuous extension: no f call."""
    coefficients = stepper.polynomial(x.detach(), h)[1:, :d]
    powers = torch.arange(1, len(coefficients) + 1, dtype=x.dtype, device=x.device)
    return (powers[None] @ coefficients)[0] / h
