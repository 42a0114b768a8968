"""An event whose time is nearly known: by Newton's steps on whole solves, each along given times.

It needs no dense output and searches nothing, so that a solver of any kind can end at the event, and steps that another
solver has taken up to it can be cut finer. The derivative is that of ``event_time``.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from odegrad.contracts import Ending, StateT, VectorField
from odegrad.event import Event
from odegrad.methods.events.event_time import event_time
from odegrad.methods.events.function import EventFunction
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.ends.landing import CLOSE_ENOUGH, MAX_LANDINGS, spacing
from odegrad.states import Layout, mapped

Along = Callable[[Any, Tensor], Any]
"""A solve of a known field along all of its times: ``y0``, times ``[K]`` -> the solution ``[K, *state]``."""


def ended_at(field: VectorField, event: Event, t0: Tensor, end: float, y0: StateT, y: StateT) -> Ending[StateT]:
    """Return the end of a solve from ``(t0, y0)``, 0-d, whose state at ``end``, where the event is, is ``y``.

    Time and state move with whatever the event depends on, where ``y`` has a graph or g a parameter; one f call then.

    Raises
    ------
    EventError
        If the event has no derivative.
    """
    function = EventFunction(event, FlatField(field, Layout.of(y0)))
    last = _flat(function, y)
    found = torch.full((), end, dtype=t0.dtype, device=t0.device)
    if torch.is_grad_enabled() and (last.requires_grad or any(x.requires_grad for x in function.trained)):
        found, last = event_time(function, function.field, end, last, t0)
    states = torch.stack([_flat(function, y0), last])
    return Ending(found, cast("StateT", function.field.layout.unflatten(states)))


def until_near(
    along: Along, field: VectorField, y0: StateT, t0: Tensor, times: Sequence[float], event: Event
) -> Ending[StateT]:
    """Return the end of a solve from ``(t0, y0)`` at the ``event`` near the last of ``times``.

    Parameters
    ----------
    along
        Solves the field; the outputs are the start and ``times[1:]``, the last of them moved.
    field, y0, t0
        What is solved, from when: ``t0`` is 0-d, near ``times[0]``, and may require a gradient.
    times
        Of the steps to take, the start and nearly the event among them.
    event
        What ends it.

    Raises
    ------
    EventError
        If the event has no derivative.
    """
    if len(times) < 2:
        return ended_at(field, event, t0, float(t0.detach()), y0, y0)
    flat = FlatField(field, Layout.of(y0))
    function, end = EventFunction(event, flat), times[-1]

    def solved(stop: float) -> StateT:
        inner = t0.new_tensor([*times[1:-1], stop])
        return cast("StateT", mapped(along(y0, torch.cat([t0.reshape(1), inner])), lambda part: part[-1]))

    for _ in range(MAX_LANDINGS):
        with torch.no_grad():
            y = _flat(function, solved(end))
            at = function.linearised(end, y)
            q = at.rate(flat(end, y).detach())
        shift = -at.value / q if q != 0.0 else 0.0
        if abs(shift) <= CLOSE_ENOUGH * spacing(end, y.dtype):
            break
        end += shift
    return ended_at(field, event, t0, end, y0, solved(end))


def _flat(function: EventFunction, y: Any) -> Tensor:
    return function.field.layout.flatten(y if isinstance(y, Tensor) else tuple(y))
