"""A solve to an event over known times at which the state is reset or the field jumps: from each to the next."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from odegrad.contracts import Ending, EndsAtEvents, State
from odegrad.errors import UsageError
from odegrad.event import Event
from odegrad.methods.events.jumps import Jump, after_jump, in_order, on_times_of, refuse_unseen_jumps
from odegrad.methods.fields.interval import ends_within
from odegrad.methods.solvers.control import StepSize
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.states import mapped, parts


def until_over_jumps(
    method: EndsAtEvents,
    field: Any,
    solver: OneStepSolver,
    y0: State,
    t0: Tensor,
    event: Event,
    jumps: Sequence[Jump],
    *,
    reverse: bool,
) -> Ending[State]:
    """Return where ``event`` is, looked for from each of ``jumps`` to the next; without any it is one solve.

    An event at the very time of a jump ends the solve before it. Jumps that lie before the start or behind the event
    do not come.

    Raises
    ------
    UsageError
        If two jumps cannot be told apart, or a reset returns something else than a state.
    UnsupportedError
        If the method or the solver cannot end at an event, or the solver compiles its steps.
    """
    if not jumps:
        return method.until(field, solver, y0, t0, event, reverse=reverse)
    refuse_unseen_jumps(solver)
    event = ends_within(event, field, t0, reverse=reverse)
    solver = dataclasses.replace(solver, carried=StepSize())
    ahead = -1.0 if reverse else 1.0
    y, start, since = y0, t0.reshape(()), None
    for jump in _ahead(on_times_of(start, jumps), float(start.detach()), event, ahead):
        if jump.at != float(start.detach()):
            sides = (*([] if since is None else [since]), jump.at)
            up_to = dataclasses.replace(event, t_max=jump.tensor, required=False)
            one_sided = dataclasses.replace(solver, one_sided=sides)
            end = method.until(field, one_sided, y, start, up_to, reverse=reverse)
            if end.found:
                return _from(y0, end)
            y = mapped(end.states, lambda part: part[-1])
        y, start, since = after_jump(jump, y), jump.tensor, jump.at
    last = solver if since is None else dataclasses.replace(solver, one_sided=(since,))
    return _from(y0, method.until(field, last, y, start, event, reverse=reverse))


def _ahead(jumps: Sequence[Jump], start: float, event: Event, ahead: float) -> list[Jump]:
    """Return the jumps from the start up to before the limit, in the order that a solve meets them."""
    behind = [jump.at for jump in jumps if jump.reset is not None and (jump.at - start) * ahead < 0]
    if behind:
        raise UsageError(
            f"jumps: expected times from t0 = {start:g} on, got {behind[0]:g}, which is before it; leave it out"
        )
    limit = math.inf if event.t_max is None else float(event.t_max) * ahead
    return in_order([jump for jump in jumps if start * ahead <= jump.at * ahead < limit], ahead)


def _from(y0: State, end: Ending[State]) -> Ending[State]:
    """Return ``end`` of the last solve as that of a solve from ``y0``."""
    pairs = zip(parts(y0), parts(end.states), strict=True)
    joined = [torch.stack([start, states[-1]]) for start, states in pairs]
    return dataclasses.replace(end, states=joined[0] if isinstance(y0, Tensor) else tuple(joined))
