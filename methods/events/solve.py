"""A solve to an event on flat states, by any gradient method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.contracts import Ending, EventObserver, Solver
from odegrad.errors import EventError, UnsupportedError, UsageError
from odegrad.event import Event
from odegrad.methods.events.event_time import event_time
from odegrad.methods.events.search import EventSearch, StartsAtEventError
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.ends.landing import CLOSE_ENOUGH, OpenTimes, spacing
from odegrad.methods.solvers.opaque import without_gradient
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.times import moves_with_time, start_depends_on_time

FlatSolve = Callable[[FlatField, OneStepSolver, Tensor, Sequence[float]], Tensor]
"""A gradient method's solve of flat states: field, solver, ``y0 [d]``, times -> ``[K, d]``."""

TAKE_ODEINT_EVENT = (
    "the event's time has no gradient here, as in torchdiffeq.odeint, and the state that at a fixed time; use "
    "odegrad.odeint_event, which lets both move with what they depend on"
)


MAX_AT_ONCE = 100
"""So many events in a row that do not move the time are no chance."""


@dataclass(frozen=True)
class StartTime:
    """The initial time of a solve to an event, and the limit up to which one is looked for."""

    tensor: Tensor
    """0-d."""
    start: float
    limit: float

    @classmethod
    def of(cls, t0: object, event: Event, *, reverse: bool) -> "StartTime":
        """Return the start ``t0`` of a solve, in decreasing time where ``reverse``.

        Raises
        ------
        UsageError
            If it is no floating-point tensor of one number, or ``t_max`` of the event does not lie behind it.
        """
        tensor = checked_start(t0)
        start = float(tensor.detach())
        limit = None if event.t_max is None else float(event.t_max)
        if limit is None:
            limit = -float("inf") if reverse else float("inf")
        if limit == start or (limit < start) is not reverse:
            raise UsageError(
                f"t_max: expected a time {'before' if reverse else 'behind'} t0 = {start:g}, got {limit:g}"
            )
        return cls(tensor, start, limit)


def checked_start(t0: object) -> Tensor:
    """Return a start time as a 0-d tensor.

    Raises
    ------
    UsageError
        If it is no floating-point tensor of one number.
    """
    if not isinstance(t0, Tensor) or t0.numel() != 1 or not t0.is_floating_point():
        got = f"shape {tuple(t0.shape)} of {t0.dtype}" if isinstance(t0, Tensor) else type(t0).__name__
        raise UsageError(f"t0: expected a floating-point tensor of one time, got {got}")
    return t0.reshape(())


def cannot_end_at_events(solver: Solver) -> str | None:
    """Return why no solve of ``solver`` can end at an event, or None if it can."""
    if not isinstance(solver, OneStepSolver):
        return "it takes its steps itself; use a solver of this package"
    if solver.per_sample:
        return "samples with steps of their own would end each at a time of its own; use batch = 'joint'"
    if not solver.has_dense_output:
        others = "kencarp4, kvaerno5 or kencarp4_imex" if solver.implicit else "dopri5, tsit5, bosh3 or rk4"
        return f"it has no dense output, by which events inside of a step are found; use {others}"
    if not solver.adaptive and solver.step_size is None:
        return "its steps are fixed and their size is not known where the end is not; give step_size"
    return None


def refuse_events(solver: Solver) -> None:
    """Raise where no solve of ``solver`` can end at an event.

    Raises
    ------
    UnsupportedError
        With the reason.
    """
    reason = cannot_end_at_events(solver)
    if reason is not None:
        raise UnsupportedError(f"event_fn: solver {solver.name} cannot end at an event: {reason}")


def solve_to_event(
    solve: FlatSolve, field: FlatField, solver: OneStepSolver, y0: Tensor, time: StartTime, event: Event
) -> Ending[Tensor]:
    """Return the time of the event, 0-d, and the states ``[2, d]`` at the start and just before the event.

    Where the event is not required and there is none, those at the limit.

    Raises
    ------
    EventError
        If there is no event before the limit, or it has no derivative.
    """
    search = EventSearch(event, field)
    times = OpenTimes(time.start, time.limit, search)
    wanted = torch.is_grad_enabled()
    start = y0
    if wanted and time.tensor.requires_grad:
        start = start_depends_on_time(y0, time.tensor.reshape(1), [time.start], field)
    try:
        y = solve(field, solver, start, times)[-1]
    except StartsAtEventError:
        # The event is at the start: the solve has no step, and time and state are the start's own.
        times[1], y = time.start, start
    end = times[1]
    if search.rest is not None:
        y = y + search.rest
    of_function = search.found and any(x.requires_grad for x in search.function.trained)
    wanted = wanted and (y.requires_grad or of_function)
    if not search.found:
        found, y = _at_the_limit(field, y, end, time.tensor if event.limit is None else event.limit)
    elif wanted and event.differentiated:
        found, y = event_time(search.function, field, end, y, time.tensor)
    else:
        found = torch.full((), end, dtype=time.tensor.dtype, device=time.tensor.device)
        found = without_gradient(found, [y], TAKE_ODEINT_EVENT) if wanted else found
    listener: object = solver.observer
    if isinstance(listener, EventObserver):
        listener.ended(search.landings, search.function.evaluations)
    return Ending(found, torch.stack([y0, y]), search.found)


def _at_the_limit(field: FlatField, y: Tensor, end: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the time and the state ``y [d]`` at the limit; they move with it where it requires a gradient."""
    if not (like.requires_grad and torch.is_grad_enabled() and float(like.detach()) == end):
        return torch.full((), end, dtype=like.dtype, device=like.device), y
    with torch.no_grad():
        f = field(end, y.detach()).detach()
    return like.reshape(()), moves_with_time(y[None], like.reshape(1).to(y.device), f[None])[0]


def accumulates(start: float, end: float, before: int, dtype: torch.dtype) -> int:
    """Return how many events in a row have come at once, ``before`` of them before this one.

    Raises
    ------
    EventError
        If they are too many: the events accumulate, and the time does not go on (Zeno's paradox).
    """
    count = before + 1 if at_once(start, end, dtype) else 0
    if count >= MAX_AT_ONCE:
        raise EventError(
            f"event_fn: {count} events in a row came within {CLOSE_ENOUGH} units in the last place of t = {end:g}: "
            "they accumulate (Zeno's paradox), and the time does not go on; end the solve there, or let the reset "
            "leave the surface"
        )
    return count


def at_once(start: float, end: float, dtype: torch.dtype) -> bool:
    """Return whether two times are one to rounding."""
    return abs(end - start) <= CLOSE_ENOUGH * spacing(max(abs(start), abs(end)), dtype)
