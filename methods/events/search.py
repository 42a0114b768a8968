"""Looking for an event along a solve: signs of g at and inside every accepted step, then its root."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from odegrad.errors import EventError
from odegrad.event import Event
from odegrad.methods.events.brent import root_between
from odegrad.methods.events.function import EventFunction, Linearised
from odegrad.methods.events.leaps import Inside, refuse_leap
from odegrad.methods.fields.interval import known_interval
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.ends.landing import CLOSE_ENOUGH, Dense, spacing

AT_ROUNDING = 64
"""A landing that is no nearer than so many times its goal after all is as near as rounding errors of a step let it."""

LEFT = 4
"""By so many times its rounding g must leave zero, or it counts as staying there: a flight between two bounces."""

AT_START = 4 * CLOSE_ENOUGH
"""A zero so many units in the last place from the start is the start's own: where the solve before has landed."""


class StartsAtEventError(Exception):
    """The event is where the solve starts; told to who has asked for it, never to the user."""


@dataclass(frozen=True)
class _Landing:
    """Where a redone step has ended: g and the rate of the state ``[d]`` there, and how far the root is."""

    t: float
    at: Linearised
    rate: Tensor
    shift: float


@dataclass(frozen=True)
class _StartOnSurface:
    """A start at which g is zero to rounding, so that its sign is known only behind."""

    t: float
    zero: float
    """How large |g| may be by rounding."""
    clear: float
    """When |g| is ``LEFT`` times as large, by its rate at the start."""

    def near(self, time: float) -> bool:
        """Return whether g need not have left zero yet at ``time``."""
        return abs(time - self.t) <= abs(self.clear - self.t)

    def holds(self, time: float, value: float) -> bool:
        """Return whether ``value`` at ``time`` is the zero of the start itself."""
        return self.near(time) and self.clear != self.t and abs(value) <= self.zero

    def left(self, next_zero: float, g: Callable[[float], float], sign: float) -> float:
        """Return a time between the start and ``next_zero`` at which ``g`` has left zero, to the side of ``sign``.

        Raises
        ------
        EventError
            If it does not by more than rounding: where one event is, the next is too.
        """
        if self.near(next_zero) or g(self.clear) * sign <= 0.0:
            raise EventError(
                f"event_fn: its zeros accumulate at t = {self.t:g} (Zeno's paradox): the solve starts at one, and "
                "before the next it does not leave zero by more than rounding, so the time does not go on; end the "
                "solve there, or let the state rest on the surface from there on"
            )
        return self.clear


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
        self.start: _StartOnSurface | None = None
        """The start, where g is zero there to rounding."""
        self.nearest = math.inf, 0.0
        """The least |g| at any time that it was looked at, and this time."""
        self.rest: Tensor | None = None
        """By how much the state ``[d]`` at the end is moved, so that g is zero there."""
        self._size = 0.0
        self._landing: _Landing | None = None

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
        q = at.rate(rate[: self.d])
        # A clock may stand at zero there: then rounding is that of the time in which the state changes by its size.
        speed = float(torch.linalg.vector_norm(rate[: self.d]))
        own = float(torch.linalg.vector_norm(y)) / speed if speed > 0.0 else 0.0
        # Where the solve before has landed g is rounding, of either sign: the sign just behind is that of its rate.
        zero = AT_START * spacing(max(abs(t), own), self.dtype) * abs(q) + at.rounding
        if abs(at.value) <= zero:
            if not self.event.first_excluded:
                raise StartsAtEventError
            self.last = math.copysign(zero, ahead * q) if q != 0.0 else 0.0
            self.start = _StartOnSurface(t, zero, t + ahead * LEFT * zero / abs(q) if q != 0.0 else t)

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
            self.function.refuse_infinite(time, value)
            if self.start is not None and self.start.holds(time, value):
                continue
            if abs(value) < self.nearest[0]:
                self.nearest = abs(value), time
            if self._crosses(last, value):
                self._size = max(abs(last), abs(value))
                inside = Inside(self.function, partial(self._state, t=t, h=h, dense=dense))
                if self.start is not None and self.start.near(before):
                    before = self.start.left(time, inside.value, last)
                root = root_between(inside.value, before, last, time, value)
                # A sample that is zero may lie on a jump from one sign to the other.
                refuse_leap(inside, root, (before, t_next if root.at == time else time), self._size)
                return root.at
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

    def shift(self, t: float, y: Tensor, rate: Tensor) -> tuple[float, float]:
        """Return how far the root is from ``t``, where a step has landed on ``y [d]``, and |g| there.

        By one step of Newton's, and by the secant from the second landing on.
        """
        # The dense output is of lower order than the step, so its root is off, and its rate too.
        at = self.function.linearised(t, y[: self.d])
        q = at.rate(rate[: self.d])
        if self._landing is not None:
            before, value = self._landing.t, self._landing.at.value
            # Nearer to each other their difference is one of rounding errors.
            secant = (at.value - value) / (t - before) if abs(t - before) > 1e3 * spacing(t, self.dtype) else q
            q = secant if 0.5 < secant / (q or math.inf) < 2.0 else q
        shift = -at.value / q if q != 0.0 else 0.0
        self._landing = _Landing(t, at, rate[: self.d], shift)
        return shift, abs(at.value)

    def landed(self, landings: int) -> None:
        """Note it, and by how much the state is to be moved along f to the surface itself.

        Raises
        ------
        EventError
            If g is not zero there.
        """
        self.landings = landings
        last, self._landing = self._landing, None
        if last is None:
            return
        size, near = abs(last.at.value), spacing(last.t, self.dtype)
        if size > 0.25 * self._size and size > AT_START * near * abs(last.at.rate(last.rate)) + last.at.rounding:
            raise EventError(
                f"event_fn: at t = {last.t:g}, where it changes its sign, it is {last.at.value:.3g} and not zero: it "
                "jumps, or is so steep that the error of the solve leaps over it; return a continuous function that is "
                "zero at the event (y - 1 in place of sign(y - 1)), or tighten rtol and atol"
            )
        # Of the time's last digits, and of what rounding has left of a step: what follows a reset would else see it,
        # large beside its own slower rate.
        if abs(last.shift) <= AT_ROUNDING * CLOSE_ENOUGH * near:
            self.rest = last.shift * last.rate

    def ends_without(self) -> bool:
        """Note that there is none up to the limit, and return whether the solve ends there all the same."""
        self.found = False
        return not self.event.required

    def missed(self, t: float, attempts: int | None) -> EventError:
        """Return what to raise where the solve does not reach an event."""
        kind = {-1: "falls through", 0: "crosses", 1: "rises through"}[self.event.direction]
        behind = "" if self.start is None else f" behind t = {self.start.t:g} (where the solve starts on it)"
        least, when = self.nearest
        touched = f"; it comes to {least:.2g} at t = {when:g}: where it may cross twice in a step raise event_samples"
        if attempts is None:
            known = known_interval(self.function.field.field)
            limit, way_out = f"t_max = {t:g}", "raise t_max"
            if known is not None and t in known:
                limit, way_out = f"t = {t:g}, the end of the path that drives the field", "give the path more"
            return EventError(
                f"event_fn: it {kind} zero nowhere{behind} up to {limit}; {way_out}, or check its sign{touched}"
            )
        return EventError(
            f"event_fn: it {kind} zero nowhere{behind} in {attempts} attempted steps, which reach t = {t:g}; give "
            f"t_max where there may be no event, or raise max_steps{touched}"
        )

    def _crosses(self, before: float, value: float) -> bool:
        if before == 0.0 or (value != 0.0 and (value > 0) == (before > 0)):
            return False
        return self.event.direction in (0, -int(math.copysign(1, before)))

    def _state(self, time: float, *, t: float, h: float, dense: Dense) -> Tensor:
        return dense([(time - t) / h])[0, : self.d]
