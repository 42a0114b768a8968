"""The accepted steps of every solve of one loss, and solves that take these steps again, each cut into equal parts."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from odegrad.binding import BoundSolve
from odegrad.contracts import Ending, EventSolve, GradientMethod, Solver, StateT, VectorField, pass_on
from odegrad.errors import SolverError, UnsupportedError
from odegrad.event import Event
from odegrad.methods.events.near import until_near
from odegrad.methods.fields.passing import PassesCalls
from odegrad.methods.solvers.solver import NO_ONE_STEP_SOLVER, OneStepSolver, make_solver
from odegrad.states import mapped

SAME_END = 1e-6
"""So far, relative to the length of a solve, its start or end may lie from the recorded one."""


class BudgetSpentError(SolverError):
    """More f calls or seconds than a reference may cost."""


@dataclass
class Budget:
    """Counts f calls, and ends them at a limit or when their time is over."""

    limit: float = float("inf")
    calls: int = 0
    seconds: float = float("inf")
    """From when the budget is made; those of a clock, so that what ends by them depends on the machine."""
    started: float = field(default_factory=time.perf_counter)

    def used(self) -> float:
        """Return the share of the budget that is spent, of calls or of seconds; 1 is all of it."""
        return max(self.calls / self.limit, (time.perf_counter() - self.started) / self.seconds)

    def watched(self, inner: VectorField) -> nn.Module:
        """Return ``inner``, whose calls count here."""
        return _Watched(inner, self)

    def spend(self) -> None:
        """Count one call.

        Raises
        ------
        BudgetSpentError
            If there were as many before as the limit allows, or the time is over.
        """
        if self.calls >= self.limit:
            raise BudgetSpentError(f"more than {self.limit:,.0f} f calls")
        if self.seconds < float("inf") and time.perf_counter() - self.started >= self.seconds:
            raise BudgetSpentError(f"more than {self.seconds:.3g} s")
        self.calls += 1


class _Watched(PassesCalls):
    """A field that tells a budget of its calls and changes nothing."""

    def __init__(self, inner: VectorField, budget: Budget) -> None:
        super().__init__()
        self.inner, self.budget = inner, budget
        pass_on(inner, self)

    def called(self, function: Callable[[Tensor, Any], Any], t: Tensor, y: Any) -> Any:
        self.budget.spend()
        return function(t, y)


@dataclass
class _Ends:
    """The ends of the accepted steps of a forward solve."""

    times: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    def accepted(self, t: float, h: float) -> None:
        """Note a step; the exact end is where the next one starts, or the last output."""
        self.times.append(t)
        self.steps.append(h)

    def rejected(self, t: float, h: float) -> None:
        """Leave it out."""


@dataclass(frozen=True)
class Grid:
    """The accepted steps of one solve: from each time to the next; the outputs are among the times."""

    times: tuple[float, ...]
    ends_at_event: bool = True
    """False of a solve to an event that has found none."""

    def cut(self, ts: Tensor, pieces: int) -> tuple[Tensor, Tensor]:
        """Return the times with every step cut into ``pieces`` equal parts, and where among them ``ts [K]`` are.

        An output time carries its graph, so that a gradient by it is not lost. Start and end may be those of an event,
        which every solve finds anew: they need only be those of the record to far less than a step.
        """
        plain = ts.detach().double().cpu().tolist()
        close = SAME_END * abs(self.times[-1] - self.times[0])
        for k in (0, -1):
            if abs(plain[k] - self.times[k]) <= close:
                plain[k] = self.times[k]
        fine: list[Tensor] = []
        rows: list[int] = []
        for i, start in enumerate(self.times):
            if start in plain[len(rows) : len(rows) + 1]:
                fine.append(ts[len(rows)])
                rows.append(len(fine) - 1)
            else:
                fine.append(ts.new_tensor(start))
            if i + 1 < len(self.times):
                end = self.times[i + 1]
                inner = [start + (end - start) * k / pieces for k in range(1, pieces)]
                fine += list(ts.new_tensor(inner).unbind())
        if len(rows) != len(plain):
            raise SolverError(
                "a recorded grid: expected every output time among its ends; solve with outputs='step_ends'"
            )
        return torch.stack(fine), torch.tensor(rows, device=ts.device)


class Grids:
    """The grids of the solves of one loss, in their order."""

    def __init__(self) -> None:
        self.known: list[Grid] = []

    def recording(self, method: GradientMethod, solver: OneStepSolver, budget: Budget) -> EventSolve:
        """Return a solve that notes the steps it takes; for one evaluation of the loss."""
        self.known.clear()
        return _Recording(method, recordable(solver), budget.watched, self.known)

    def along(self, method: GradientMethod, solver: OneStepSolver, pieces: int, budget: Budget) -> EventSolve:
        """Return a solve by ``method`` whose outputs are the ends of all recorded steps, each cut into ``pieces``.

        What the loss sees are the rows at its own times; the others have no cotangent. For one evaluation of the loss.
        """
        return _Along(method, solver, budget.watched, iter(self.known), pieces)


def recordable(solver: OneStepSolver) -> OneStepSolver:
    """Return ``solver`` with every output at the end of a step, and not compiled."""
    return dataclasses.replace(solver, outputs="step_ends", compile=False)


def searching(solver: Solver) -> OneStepSolver:
    """Return ``solver``, or dopri5 with its tolerances where it has no dense output to search for an event.

    Raises
    ------
    UnsupportedError
        If it is another kind of solver, of which nothing is known.
    """
    if not isinstance(solver, OneStepSolver):
        raise UnsupportedError(f"solver {solver.name}: {NO_ONE_STEP_SOLVER}")
    if solver.has_dense_output:
        return solver
    control = solver.controller
    return make_solver("dopri5", rtol=control.rtol, atol=control.atol, max_steps=solver.max_steps)


@dataclass(frozen=True)
class Searching(BoundSolve):
    """A solve that ends at events by a solver that can."""

    def until(
        self, field: VectorField, y0: StateT, t0: Tensor, event: Event, /, *, reverse: bool = False
    ) -> Ending[StateT]:
        """Return where ``event`` is."""
        able = dataclasses.replace(self, solver=searching(self.solver))
        return BoundSolve.until(able, field, y0, t0, event, reverse=reverse)


@dataclass(frozen=True)
class _Recording(BoundSolve):
    """A solve whose steps are noted."""

    known: list[Grid] = field(default_factory=list)

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        ends = _Ends()
        ys = super().solved(field, solver.observed_by(ends), y0, ts)
        self._note(ends, float(ts[-1]))
        return ys

    def until(
        self, field: VectorField, y0: StateT, t0: Tensor, event: Event, /, *, reverse: bool = False
    ) -> Ending[StateT]:
        ends = _Ends()
        able = BoundSolve(self.method, recordable(searching(self.solver)).observed_by(ends), self.seen)
        end = able.until(field, y0, t0, event, reverse=reverse)
        self._note(ends, float(end.time), found=end.found)
        return end

    def _note(self, ends: _Ends, last: float, *, found: bool = True) -> None:
        self.known.append(Grid((*ends.times, last), found))
        # The backward pass of the method, if there is one, is not to be heard.
        ends.times = []


@dataclass(frozen=True)
class _Along(BoundSolve):
    """A solve along recorded steps, each cut into ``pieces``."""

    known: Iterator[Grid] = field(default_factory=lambda: iter(()))
    pieces: int = 1

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        fine, rows = self._next().cut(ts, self.pieces)
        return mapped(super().solved(field, solver, y0, fine), lambda ys: ys[rows])

    def until(
        self,
        field: VectorField,
        y0: StateT,
        t0: Tensor,
        event: Event,
        /,
        *,
        reverse: bool = False,  # noqa: ARG002
    ) -> Ending[StateT]:
        grid = self._next()
        times = grid.cut(t0.new_tensor([grid.times[0], grid.times[-1]]), self.pieces)[0].tolist()

        def along(start: StateT, ts: Tensor) -> StateT:
            return BoundSolve.solved(self, field, self.solver, start, ts)

        if grid.ends_at_event:
            return until_near(along, field, y0, t0, times, event)
        limit = t0.new_tensor(times[-1]) if event.limit is None else event.limit
        ys = along(y0, torch.cat([t0.reshape(1), t0.new_tensor(times[1:-1]), limit.reshape(1)]))
        return Ending(limit.reshape(()), mapped(ys, lambda part: part[[0, -1]]), found=False)

    def _next(self) -> Grid:
        grid = next(self.known, None)
        if grid is None:
            raise SolverError("the loss solves more equations than when its grids were recorded: it is not repeatable")
        return grid
