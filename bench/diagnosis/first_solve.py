"""The first solve of a task's loss as a model of its own, the rest of the loss behind it: what a diagnosis looks at."""

import dataclasses
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from odegrad.contracts import Ending, Problem, Solver, State, StateT, VectorField
from odegrad.event import Event
from odegrad.methods.events.near import ended_at
from odegrad.reference.grids import Searching
from odegrad.registry import build_gradient, build_solver
from odegrad.states import mapped
from odegrad.user.models import Model

TIGHT_TOLERANCE = 1e-13
"""Of the solves of a loss behind its first one."""


@dataclass(frozen=True)
class _Noting(Searching):
    """A solve that notes each: field, start, times and, where it ends at one, the event."""

    noted: list[tuple[VectorField, State, Tensor, Event | None]] = dataclasses.field(default_factory=list)

    def __call__(self, field: VectorField, y0: StateT, ts: Tensor, /) -> StateT:
        ys = super().__call__(field, y0, ts)
        if ts.dim() == 2:  # as they were asked for, in the place of the union of all
            self.noted.pop()
            self._note(field, y0, ts, None)
        return ys

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        ys = super().solved(field, solver, y0, ts)
        self._note(field, y0, ts, None)
        return ys

    def until(
        self, field: VectorField, y0: StateT, t0: Tensor, event: Event, /, *, reverse: bool = False
    ) -> Ending[StateT]:
        end = super().until(field, y0, t0, event, reverse=reverse)
        self._note(field, y0, torch.stack([t0.reshape(()), end.time.to(t0)]), event if end.found else None)
        return end

    def beyond(self) -> str:
        """Return what the loss is of beside a first solve to known times, in words."""
        several = f"it solves {len(self.noted)} times" if len(self.noted) > 1 else ""
        to_events = "its solves end at events" if any(event is not None for *_, event in self.noted) else ""
        return " and ".join(filter(None, (several, to_events)))

    def _note(self, field: VectorField, y0: State, ts: Tensor, event: Event | None) -> None:
        self.noted.append((field, mapped(y0, Tensor.detach), ts.detach(), event))


@dataclass(frozen=True)
class _Behind(Searching):
    """A solve whose first solution is ``waiting``, and where it ended at one, the event."""

    waiting: list[State] = dataclasses.field(default_factory=list)
    end: float = 0.0
    event: Event | None = None

    def __call__(self, field: VectorField, y0: StateT, ts: Tensor, /) -> StateT:
        return self._next(y0) if self.waiting else super().__call__(field, y0, ts)

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        return self._next(y0) if self.waiting else super().solved(field, solver, y0, ts)

    def until(
        self, field: VectorField, y0: StateT, t0: Tensor, event: Event, /, *, reverse: bool = False
    ) -> Ending[StateT]:
        if not self.waiting:
            return super().until(field, y0, t0, event, reverse=reverse)
        ys = self._next(y0)
        if self.event is None:
            return Ending(t0.new_tensor(self.end), ys, found=False)
        return ended_at(field, event, t0, self.end, y0, mapped(ys, lambda part: part[-1]))

    def _next(self, _y0: StateT) -> StateT:
        """Return the waiting solution, which is of the kind of its start."""
        return cast("StateT", self.waiting.pop())


@dataclass(frozen=True)
class FirstSolve:
    """The first solve of a loss as a model, and whether there is more."""

    model: Model
    """One that ends at an event is here a solve to the time of the event, which moves with its last state."""
    beyond: str
    """What else the loss is of, in words; empty where this solve is all of it."""


def first_solve(problem: Problem) -> FirstSolve:
    """Return the first solve of a float64 problem's loss on its probe batch, the rest of the loss behind it."""
    batch = problem.probe_batch()
    exact = build_gradient("naive")
    tight = build_solver("dopri8", TIGHT_TOLERANCE, TIGHT_TOLERANCE)
    noting = _Noting(exact, tight)
    with torch.no_grad():
        problem.loss(noting, batch)
    field, start, ts, event = noting.noted[0]

    def loss(ys: State) -> Tensor:
        return problem.loss(_Behind(exact, tight, waiting=[ys], end=float(ts.flatten()[-1]), event=event), batch)

    return FirstSolve(Model(cast("nn.Module", field), start, ts, loss), noting.beyond())
