"""Looking for an event along a solve: signs of g at and inside every accepted step, then its root."""

import math

import torch
from torch import Tensor

from odegrad.errors import EventError
from odegrad.event import Event
from odegrad.methods.events.brent import root_between
from odegrad.methods.events.function import EventFunction
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.ends.landing import CLOSE_ENOUGH, Dense, spacing

AT_START = 4 * CLOSE_ENOUGH
"""A zero so many units in the last place from the start is the start's own: where the solve before has landed."""


class StartsAtEventError(Exception):
    """The event is where the solve starts; told to who has asked for it, never to the user."""


class EventSearch:
    """The end of one solve of ``field``: where ``event`` is."""

    def __init__(self, event: Event, field: FlatField) -> None:
        self.event = event
        self.function = EventFunction(event, field)
        self.d = sum(field.layout.sizes)
        """Numbers of the state, behind which a solve may carry more."""
        self.landings = 0
        self.found = True
        """False where the solve has ended at its limit without an event."""
        self.dtype = field.layout.dtype
        self.last = 0.0
        """g where the search stands, with the sign that it has just behind: 0.0 where no sign is known."""

    def begin(self, t: float, y: Tensor, rate: Tensor, ahead: float) -> None:
        """Take the sign of g at the start, or just behind it where it is zero there.

        Raises
        ------
        StartsAtEventError
            If g is zero at the start and this zero is not excluded.
        """
        y = y[: self.d]
        at = self.function.linearised(t, y)
        self.last = at.value
        eps = float(torch.finfo(self.dtype).eps)
        rounding = AT_START * eps * float(torch.dot(at.by_state.abs(), y.abs()))
        q = at.rate(rate[: self.d])
        # A clock may stand at zero there: then rounding is that of the time in which the state changes by its size.
        speed = float(torch.linalg.vector_norm(rate[: self.d]))
        own = float(torch.linalg.vector_norm(y)) / speed if speed > 0.0 else 0.0
        # Where the solve before has landed g is rounding, of either sign: the sign just behind is that of its rate.
        if abs(at.value) <= AT_START * spacing(max(abs(t), own), self.dtype) * abs(q) + rounding:
            if not self.event.first_excluded:
                raise StartsAtEventError
            self.last = ahead * q

    def end_in(self, t: float, h: float, t_next: float, y_next: Tensor, dense: Dense) -> float | None:
        """Return the earliest event in the step ``(t, t_next]`` by its dense output, None if there is none."""
        m = self.event.event_samples
        thetas = [(i + 1) / (m + 1) for i in range(m)]
        times = [*(t + theta * h for theta in thetas), t_next]
        # The signs inside of the step find a pair of roots between its ends, which the ends alone do not tell.
        states = torch.cat([dense(thetas), y_next[None]]) if thetas else y_next[None]
        states = states[:, : self.d]
        values = self.function.values(times, states)
        before, last = t, self.last
        for time, value in zip(times, values, strict=True):
            if self._crosses(last, value):
                if value == 0.0:
                    return time
                return root_between(lambda x: self._inside(x, t, h, dense), before, last, time, value)
            # A zero that is touched and not crossed leaves the sign as it was.
            before, last = time, value or last
        self.last = last
        return None

    def ends_at(self, t: float, y: Tensor, rate: Tensor) -> bool:
        """Return whether g is zero at ``(t, y)`` to rounding, and crosses it there."""
        at = self.function.linearised(t, y[: self.d])
        q = at.rate(rate[: self.d])
        # |g| / |q| is how far the root is away in time; nearer than a few ulp it cannot be named.
        near = abs(at.value) <= CLOSE_ENOUGH * spacing(t, self.dtype) * abs(q)
        return near and self._crosses(self.last, math.copysign(1.0, -self.last))

    def shift(self, t: float, y: Tensor, rate: Tensor) -> float:
        """Return one step of Newton's from ``t``, where a step has landed on ``y [d]``."""
        at = self.function.linearised(t, y[: self.d])
        q = at.rate(rate[: self.d])
        # The dense output is of lower order than the step, so its root is off: one Newton step on the landed state.
        return -at.value / q if q != 0.0 else 0.0

    def landed(self, landings: int) -> None:
        """Note it."""
        self.landings = landings

    def ends_without(self) -> bool:
        """Note that there is none up to the limit, and return whether the solve ends there all the same."""
        self.found = False
        return not self.event.required

    def missed(self, t: float, attempts: int | None) -> EventError:
        """Return what to raise where the solve does not reach an event."""
        kind = {-1: "falls through", 0: "crosses", 1: "rises through"}[self.event.direction]
        if attempts is None:
            return EventError(f"event_fn: it {kind} zero nowhere up to t_max = {t:g}; raise t_max, or check its sign")
        return EventError(
            f"event_fn: it {kind} zero nowhere in {attempts} attempted steps, which reach t = {t:g}; give t_max where "
            "there may be no event, or raise max_steps"
        )

    def _crosses(self, before: float, value: float) -> bool:
        if before == 0.0 or (value != 0.0 and (value > 0) == (before > 0)):
            return False
        return self.event.direction in (0, -int(math.copysign(1, before)))

    def _inside(self, time: float, t: float, h: float, dense: Dense) -> float:
        return self.function.values([time], dense([(time - t) / h])[:, : self.d])[0]
