"""What every gradient method does at its edges: check the input, flatten it, give the user's shapes back."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, TypeVar, cast

import torch
from torch import Tensor

from odegrad.contracts import (
    Calls,
    Ending,
    Solver,
    State,
    StateT,
    StepCounts,
    Traits,
    VectorField,
    equivalent_solver,
    unjudged_parts,
)
from odegrad.errors import NonFiniteError, UnsupportedError
from odegrad.event import Event
from odegrad.methods.backward.limits import check_numbers, warn_of_tolerance
from odegrad.methods.backward.per_sample.entry import solve_samples
from odegrad.methods.backward.transforms import (
    OTHER_WAYS,
    solved_outside,
    standing_in_transforms,
)
from odegrad.methods.events.jumps import OneSolve, field_jumps, solve_over_jumps
from odegrad.methods.events.solve import StartTime, refuse_events, solve_to_event
from odegrad.methods.fields.callbacks import CALLBACKS, StepCallbacks
from odegrad.methods.fields.draws import OF_OTHERS, Draws
from odegrad.methods.fields.interval import ends_within, refuse_outside
from odegrad.methods.fields.surroundings import autocast_off, inside_derivative, inside_transform
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.tableau import Implicit
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import SampleTimes
from odegrad.methods.solvers.solver import NO_ONE_STEP_SOLVER, OneStepSolver
from odegrad.methods.solvers.switching.scheme import Switching
from odegrad.methods.solvers.times import checked_times, outputs_depend_on_time, start_depends_on_time
from odegrad.states import Layout

_Found = TypeVar("_Found")
_Solved = Callable[[FlatField, OneStepSolver, Tensor], _Found]
"""A solve of flat states from ``y0 [d]``."""


@dataclass(frozen=True)
class SharedLoopMethod(abc.ABC):
    """A gradient method on the shared solver loop; a subclass says how it solves flat states.

    Gradients with respect to the output times are those of the continuous problem, the same for all of them:
    ``dL/dt_k = f(t_k, y_k) . dL/dy(t_k)`` and ``dL/dt_0 = -f(t_0, y_0) . a(t_0)`` (Chen et al. 2018, appendix C). On a
    coarse fixed grid the computed loss depends on its times otherwise, by as much as the steps are off.
    """

    traits: ClassVar[Traits]

    takes_transforms: ClassVar[bool] = False
    """Whether the graph of explicit steps is one that transforms of ``torch.func`` can differentiate by themselves."""

    def __call__(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Solve; see ``odegrad.contracts.GradientMethod``.

        Raises
        ------
        UsageError
            If ``y0``, ``ts`` or ``field`` are not what the contract says.
        UnsupportedError
            If the method cannot use the solver.
        SolverError
            If the solve cannot go on.
        """
        usable = self._usable(solver)
        if not inside_derivative():
            return self._taken(field, usable, y0, ts)
        if not self.takes_transforms or usable.implicit or usable.per_sample or usable.precision:
            return solved_outside(partial(self._outside, usable), field, y0, ts)
        with standing_in_transforms(y0, ts):
            return self._taken(field, usable, y0, ts)

    def _taken(self, field: VectorField, usable: OneStepSolver, y0: StateT, ts: Tensor) -> StateT:
        """Solve where no transform has to be seen to."""
        refuse_outside(field, ts)
        if usable.per_sample:
            return self._samples_solved(field, usable, y0, ts)
        times = checked_times(ts)

        def solved(flat_field: FlatField, checked: OneStepSolver, start: Tensor) -> Tensor:
            if checked.one_sided:
                flat_field.see_inside(checked.one_sided, times[0], times[-1])
            return self._solved(flat_field, checked, start, ts, times)

        layout, ys = self._on_flat_states(field, usable, y0, solved)
        return cast("StateT", layout.unflatten(ys))

    def until(
        self, field: VectorField, solver: Solver, y0: StateT, t0: Tensor, event: Event, *, reverse: bool = False
    ) -> Ending[StateT]:
        """Solve from ``t0``, 0-d, until ``event``; in decreasing time where ``reverse``. Raises what a call does.

        Raises
        ------
        EventError
            If there is no event, or it has no derivative.
        """
        usable = self._usable(solver)
        refuse_events(equivalent_solver(self, usable))
        if inside_transform():
            raise UnsupportedError(f"odeint_event: it cannot be transformed by torch.func; {OTHER_WAYS}")
        event = ends_within(event, field, t0, reverse=reverse)
        time = StartTime.of(t0, event, reverse=reverse)

        def solved(flat_field: FlatField, checked: OneStepSolver, start: Tensor) -> Ending[Tensor]:
            if checked.one_sided:
                flat_field.see_inside(checked.one_sided, time.start, time.limit)
            return solve_to_event(self.solve, flat_field, checked, start, time, event)

        layout, end = self._on_flat_states(field, usable, y0, solved)
        return Ending(end.time, cast("StateT", layout.unflatten(end.states)), end.found)

    def across(
        self,
        field: VectorField,
        solver: Solver,
        y0: StateT,
        ts: Tensor,
        jump_t: Sequence[float],
        one: OneSolve | None = None,
    ) -> StateT:
        """Return the solution at ``ts`` of a field that jumps at ``jump_t``, a solve from each to the next.

        ``one`` does each, this method itself if None. Raises what a call does.
        """
        usable = self._usable(solver)
        return cast("StateT", solve_over_jumps(one or self, field, usable, y0, ts, field_jumps(jump_t)))

    def _usable(self, solver: Solver) -> OneStepSolver:
        """Return ``solver``, if it is one that this method can use."""
        reason = self.refuses(solver)
        if reason is not None or not isinstance(solver, OneStepSolver):
            why = reason or NO_ONE_STEP_SOLVER
            raise UnsupportedError(f"{self.traits.name} cannot use solver {solver.name}: {why}")
        return solver

    def _on_flat_states(
        self, field: VectorField, solver: OneStepSolver, y0: State, solved: _Solved[_Found]
    ) -> tuple[Layout, _Found]:
        """Return how the state lies in a vector, and what ``solved`` finds from there."""
        layout = dataclasses.replace(Layout.of(y0, unjudged_parts(field)), own_norm=solver.norm)
        start = layout.flatten(y0 if isinstance(y0, Tensor) else tuple(y0))
        check_numbers(solver, start)
        flat_field = _told(FlatField(field, layout), solver)
        before = Draws.now([*flat_field.sources, *OF_OTHERS])
        # The solver computes in the state's type: under the caller's autocast are the calls of the field alone.
        with autocast_off(layout.device.type), _of_low_field(solver):
            found = solved(flat_field, solver, start)
            late = []
            if before.has_moved():
                late = [(s, state) for s, state in before.moved().states if s not in flat_field.draws]
            if late:
                # It draws, and its first call did not: now that this is known, let every call begin from one state.
                before.set()
                again = _told(FlatField(field, layout, Draws(late)), solver)
                with flat_field.undisturbed():
                    found = solved(again, solver, start)
                again.stand_after_one_call()
        return layout, found

    def _outside(self, solver: OneStepSolver, field: VectorField, y0: StateT, ts: Tensor) -> StateT:
        return self(field, solver, y0, ts)

    def _solved(self, field: FlatField, solver: OneStepSolver, start: Tensor, ts: Tensor, times: list[float]) -> Tensor:
        """Return the states ``[K, d]`` from ``start [d]``, which depend on ``ts`` where it requires a gradient."""
        if ts.requires_grad and torch.is_grad_enabled():
            # Attached around the solve: a method's own pull-back never has to know of times.
            moving = start_depends_on_time(start, ts, times, field)
            ys = self.solve(field, solver, moving, times)
            return outputs_depend_on_time(torch.cat([start[None], ys[1:]]), ts, times, field)
        return self.solve(field, solver, start, times)

    def _samples_solved(self, field: VectorField, solver: OneStepSolver, y0: StateT, ts: Tensor) -> StateT:
        """Solve with steps of each sample's own."""
        layout = Layout.of(y0, unjudged_parts(field))
        if StepCallbacks.of(field, layout) is not None:
            raise UnsupportedError(
                f"field: its callbacks ({', '.join(CALLBACKS)}) hear of steps that all samples share; leave them out "
                "with batch = 'per_sample'"
            )
        warn_of_tolerance(solver, layout.dtype)
        row_field = RowField(field, layout).in_precision(solver.precision)
        return solve_samples(lambda *given: self.solve_rows(given[0], solver, *given[1:]), row_field, y0, ts)

    def refuses(self, solver: Solver) -> str | None:
        """Return why this method cannot use ``solver``, or None if it can."""
        if not isinstance(solver, OneStepSolver):
            return NO_ONE_STEP_SOLVER
        reason = solver.refuses_per_sample or self.refuses_rows(solver) if solver.per_sample else None
        return reason or solver.refuses_precision or self.cannot_use(solver)

    def refuses_rows(self, solver: OneStepSolver) -> str | None:  # noqa: ARG002
        """Return why this method cannot give every sample steps of its own, or None if it can."""
        return f"{SHARED_STEPS}; use batch = 'joint', or aca"

    def cannot_use(self, solver: OneStepSolver) -> str | None:  # noqa: ARG002
        """Return why this method cannot take the steps of ``solver``, or None if it can."""
        return None

    @abc.abstractmethod
    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost."""

    @abc.abstractmethod
    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` at ``times`` from ``y0 [d]``, with the graph that is the method."""

    def solve_rows(
        self,
        field: RowField,  # noqa: ARG002
        solver: OneStepSolver,
        y0: Tensor,  # noqa: ARG002
        times: SampleTimes,  # noqa: ARG002
    ) -> Tensor:
        """Return the states ``[K, batch, n]`` from ``y0 [batch, n]``, each sample by its own steps, with the graph.

        Raises
        ------
        UnsupportedError
            If the method cannot.
        """
        raise UnsupportedError(f"{self.traits.name} cannot use solver {solver.name}: {self.refuses_rows(solver)}")


@contextmanager
def _of_low_field(solver: OneStepSolver) -> Iterator[None]:
    """Say where a state that is not finite may come from, if the field computes in float16."""
    try:
        yield
    except NonFiniteError as error:
        if solver.precision != "float16":
            raise
        raise NonFiniteError(
            f"{error}; or take precision = 'bfloat16', as a field in float16 overflows at 65504"
        ) from error


SHARED_STEPS = "all samples of a batch share its steps, and batch = 'per_sample' gives each its own"
"""Why a method cannot give samples steps of their own."""


def _told(field: FlatField, solver: OneStepSolver) -> FlatField:
    """Return ``field``, told of its callbacks and of what ``solver`` asks of each number of its state."""
    field.in_precision(solver.precision)
    field.callbacks = StepCallbacks.of(field.field, field.layout)
    if solver.tolerances is not None:
        if isinstance(solver.scheme, Implicit | Switching):
            raise UnsupportedError(
                f"rtol, atol: solver {solver.name} is implicit, and its Newton iteration has one tolerance for all "
                "numbers; give one number each, or use dopri5"
            )
        rtol, atol = solver.tolerances
        field.tolerances = field.layout.per_number("rtol", rtol), field.layout.per_number("atol", atol)
    return field


SPLIT = (
    "its equations are solved along with the whole field, and an implicit-explicit pair steps with two halves; use aca "
    "or symplectic_adjoint, or kencarp4"
)
"""Why a method refuses a solver of a split field that has no pull-back of its own through it."""

NEEDS_TABLEAU = "it works on the stages of a Runge-Kutta method; use one such as dopri5"
"""Why a method refuses a solver that is none."""
