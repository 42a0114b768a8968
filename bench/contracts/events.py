"""What ends a solve at an event, and takes it over jumps: what a gradient method may offer, and a task may ask for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, runtime_checkable

from torch import Tensor

from odegrad.contracts.fields import StateT, VectorField
from odegrad.contracts.methods import GradientMethod, Solve
from odegrad.contracts.solvers import Solver
from odegrad.errors import UnsupportedError
from odegrad.event import Event


@dataclass(frozen=True)
class Ending(Generic[StateT]):
    """Where a solve has ended that looked for an event."""

    time: Tensor
    """0-d; moves with whatever the event depends on."""
    states: StateT
    """``[2, batch, *state]``, or a tuple of such, at the start and just before the event."""
    found: bool = True
    """False where there was none up to ``t_max``, which is then ``time``."""


@runtime_checkable
class EndsAtEvents(Protocol):
    """A gradient method whose solves can end where a function of time and state crosses zero."""

    def until(
        self, field: VectorField, solver: Solver, y0: StateT, t0: Tensor, event: Event, *, reverse: bool = False
    ) -> Ending[StateT]:
        """Solve from ``t0``, 0-d, until ``event``; in decreasing time where ``reverse``."""
        ...


class BetweenJumps(Protocol):
    """One solve without a jump inside: what a gradient method is, or who measures it puts in its place."""

    def __call__(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor, /) -> StateT:
        """Return the solution at ``ts``; see ``GradientMethod``."""
        ...


@runtime_checkable
class TakesJumps(Protocol):
    """A gradient method that can solve over known times at which the field jumps, in one solve from each to the next.

    ``one(field, solver, y0, ts)`` does each of them, so that who measures hears of each.
    """

    def across(
        self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor, jump_t: Sequence[float], one: BetweenJumps
    ) -> StateT:
        """Return the solution at ``ts`` of a field that jumps at ``jump_t``; see ``GradientMethod``."""
        ...


def ending_at_events(method: GradientMethod) -> EndsAtEvents:
    """Return ``method``, whose solves can end at events.

    Raises
    ------
    UnsupportedError
        If they cannot.
    """
    if not isinstance(method, EndsAtEvents):
        raise UnsupportedError(
            f"event_fn: gradient method {method.traits.name} solves by another library, which is not told of events "
            "here; use one of this package, such as naive or aca"
        )
    return method


def taking_jumps(method: GradientMethod) -> TakesJumps:
    """Return ``method``, whose solves can go over known times at which the field jumps.

    Raises
    ------
    UnsupportedError
        If they cannot.
    """
    if not isinstance(method, TakesJumps):
        raise UnsupportedError(
            f"jump_t, jumps: gradient method {method.traits.name} solves by another library, which does not see the "
            "limits of the field there; use one of this package, such as naive or aca"
        )
    return method


@runtime_checkable
class EventSolve(Solve, Protocol):
    """A solve that can also end at an event, and go over times at which the field jumps.

    Every solve that a task is given here is one; a task that needs it takes ``event_solve(solve)``.
    """

    def until(
        self, field: VectorField, y0: StateT, t0: Tensor, event: Event, /, *, reverse: bool = False
    ) -> Ending[StateT]:
        """Return where ``event`` is, from ``t0`` on; see ``EndsAtEvents``.

        Raises
        ------
        UnsupportedError
            If the method or its solver cannot end at an event.
        """
        ...

    def across(self, field: VectorField, y0: StateT, ts: Tensor, jump_t: Sequence[float], /) -> StateT:
        """Return the solution at ``ts`` of a field that jumps at ``jump_t``; see ``TakesJumps``.

        Raises
        ------
        UnsupportedError
            If the method or its solver does not see the limits of the field there.
        """
        ...


def event_solve(solve: Solve) -> EventSolve:
    """Return ``solve``, which can end at events and go over jumps.

    Raises
    ------
    UnsupportedError
        If it is a plain function, which can do neither.
    """
    if not isinstance(solve, EventSolve):
        raise UnsupportedError(
            f"solve: expected one that can end at events and go over jumps, got {type(solve).__name__}; take "
            "odegrad.binding.solve_with(method, solver)"
        )
    return solve
