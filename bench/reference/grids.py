"""The accepted steps of every solve of one loss, and solves that take these steps again, each cut into equal parts."""

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from odegrad.contracts import GradientMethod, Solve, StateT, VectorField, pass_on
from odegrad.errors import SolverError
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.states import mapped


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


class _Watched(nn.Module):
    """A field that tells a budget of its calls and changes nothing."""

    def __init__(self, inner: VectorField, budget: Budget) -> None:
        super().__init__()
        self.inner, self.budget = inner, budget
        pass_on(inner, self)

    def forward(self, t: Tensor, y: Any) -> object:
        self.budget.spend()
        return self.inner(t, y)


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

    def cut(self, ts: Tensor, pieces: int) -> tuple[Tensor, Tensor]:
        """Return the times with every step cut into ``pieces`` equal parts, and where among them ``ts [K]`` are.

        An output time carries its graph, so that a gradient by it is not lost.
        """
        plain = ts.detach().double().cpu().tolist()
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
        self._next = 0

    def recording(self, method: GradientMethod, solver: OneStepSolver, budget: Budget) -> Solve:
        """Return a solve that notes the steps it takes; for one evaluation of the loss."""
        self.known.clear()
        solver = dataclasses.replace(solver, outputs="step_ends", compile=False)

        def solve(f: VectorField, y0: StateT, ts: Tensor) -> StateT:
            ends = _Ends()
            # The backward pass of the method, if there is one, is not to be heard.
            noted = method(budget.watched(f), solver.observed_by(ends), y0, ts)
            last = float(ts[-1])
            self.known.append(Grid((*ends.times, last)))
            ends.times = []
            return noted

        return solve

    def along(self, method: GradientMethod, solver: OneStepSolver, pieces: int, budget: Budget) -> Solve:
        """Return a solve by ``method`` whose outputs are the ends of all recorded steps, each cut into ``pieces``.

        What the loss sees are the rows at its own times; the others have no cotangent. For one evaluation of the loss.
        """
        self._next = 0

        def solve(f: VectorField, y0: StateT, ts: Tensor) -> StateT:
            if self._next >= len(self.known):
                raise SolverError(
                    "the loss solves more equations than when its grids were recorded: it is not repeatable"
                )
            fine, rows = self.known[self._next].cut(ts, pieces)
            self._next += 1
            return mapped(method(budget.watched(f), solver, y0, fine), lambda ys: ys[rows])

        return solve
