"""A sign that changes without a zero: where an event function jumps from one side to the other, or has a pole."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.errors import EventError
from odegrad.methods.events.brent import Root
from odegrad.methods.events.function import EventFunction
from odegrad.methods.solvers.ends.landing import CLOSE_ENOUGH, spacing

WIDER = 1024
"""By so much one look around a root is wider than the other: where g is continuous it differs more there."""


@dataclass(frozen=True)
class Inside:
    """g along one step: ``state(t) [d]`` is the dense output's."""

    function: EventFunction
    state: Callable[[float], Tensor]

    def value(self, time: float) -> float:
        """Return g at ``time``."""
        (value,) = self.function.values([time], self.state(time)[None])
        return self.function.refuse_infinite(time, value)

    def rounding(self, time: float) -> float:
        """Return how large g may be at ``time`` by rounding errors of the state alone."""
        return self.function.linearised(time, self.state(time)).rounding


def refuse_leap(g: Inside, root: Root, bracket: tuple[float, float], size: float) -> None:
    """Raise if ``g`` leaps over zero at ``root``, inside of ``bracket``: |g| does not shrink with the distance.

    Parameters
    ----------
    g
        The event function along the solution.
    root
        Where its sign changes.
    bracket
        Two times around it, in either order.
    size
        How large g is at these.

    Raises
    ------
    EventError
        If it does.
    """
    dtype = g.function.field.layout.dtype
    small = math.sqrt(torch.finfo(dtype).eps) * size
    # A zero that was hit may be that of sign(0), in the middle of a jump.
    if 0.0 < root.left <= small:
        return
    near, low, high = CLOSE_ENOUGH * spacing(root.at, dtype), *sorted(bracket)
    while True:
        times = [root.at + side * far for far in (near, WIDER * near) for side in (-1, 1)]
        if not low < times[2] < root.at < times[3] < high:
            return
        left, right = g.value(times[0]), g.value(times[1])
        if max(abs(left), abs(right)) <= small:
            return
        if left * right < 0.0:
            break
        # The state's own rounding blurs where a slow one leaps, by many units of the time.
        near *= 8
    across, wider = abs(right - left), abs(g.value(times[3]) - g.value(times[2]))
    if across > 2 * wider:
        raise EventError(
            f"event_fn: at t = {root.at:g} it changes its sign through infinity ({left:.3g} and {right:.3g} on either "
            "side), at a pole, which is no zero; multiply it by its denominator, or end the solve before"
        )
    if 2 * across > wider and across > min(map(g.rounding, times[2:])):
        raise EventError(
            f"event_fn: at t = {root.at:g} it jumps from {left:.3g} to {right:.3g} and is zero nowhere in between; "
            "return a continuous function that is zero at the event (y - 1 in place of sign(y - 1)), or give jump_t "
            "the time of a jump that is known"
        )
