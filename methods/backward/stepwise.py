"""Pull-backs that pass from accepted step to accepted step, where a tap may watch them."""

import abc
from collections.abc import Generator, Iterator, Sequence

import torch
from torch import Tensor

from odegrad.contracts import Tap
from odegrad.methods.backward.node import Gradients, SolveNode
from odegrad.methods.backward.reconstruction import Limits, smallest_size, start_error, tell
from odegrad.methods.backward.step_ends import StepEnd, StepEndSampler
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.loop import steps
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.stepper import AcceptedStep, GridStep

WalkBack = Generator[StepEnd, None, Gradients]
"""A pull-back from the last step to the first: yields where each step begins, returns the gradients."""


class StepwiseNode(SolveNode):
    """Pulls back step by step through the recorded ``grid``; ``tap`` samples the ends of the steps on the way."""

    def __init__(self, field: FlatField, solver: OneStepSolver, times: Sequence[float], tap: Tap | None) -> None:
        super().__init__(field, solver, times)
        self.tap = tap
        self.grid: list[GridStep] = []
        self._last: Tensor
        """The last carried vector, for the tap."""

    def steps(self, y0: Tensor) -> Iterator[AcceptedStep]:
        """Solve from ``y0 [d]``, record the grid and yield the accepted steps."""
        for step in steps(self.field, self.solver, y0, self.times):
            self.grid.append(step.grid_step)
            if self.tap is not None:
                self._last = step.x_next.detach()
            yield step

    def backwards(self) -> Iterator[tuple[int, GridStep]]:
        """Yield the recorded steps from the last to the first, with the number of steps before each."""
        for n in range(len(self.grid) - 1, -1, -1):
            yield n, self.grid[n]

    @abc.abstractmethod
    def walk_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> WalkBack:
        """Pull back from the last step to the first: yield where each step begins, return the gradients."""

    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> Gradients:
        """Walk back to the start, and let the tap sample the ends of the steps."""
        sample = _unwatched
        if self.tap is not None:
            sample = StepEndSampler(self.tap, self.field, self.solver.scheme, self.grid, grads).sample
            # At the very end nothing comes later: there the costate is what the last output adds to zero.
            sample(StepEnd(len(self.grid), self._last, torch.zeros_like(grads[0])))
        walk = self.walk_back(grads, kept)
        while True:
            try:
                # Without a name for it: one would hold a state and a costate while the next step is pulled back.
                sample(next(walk))
            except StopIteration as end:
                gradients: Gradients = end.value
                return gradients


class InvertedNode(StepwiseNode):
    """Keeps the last carried vector ``[2d]``, the start and the grid: the pull-back inverts the steps to the start."""

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep the end."""
        ys, x = [y0[None]], y0
        for step in self.steps(y0):
            x = step.x_next
            ys += step.ys
        return torch.cat(ys), (x, y0)

    def arrive(self, y: Tensor, kept: tuple[Tensor, ...]) -> None:
        """Tell how far the inverted steps have ended from the start: ``y [d]`` is where."""
        end, y0 = kept
        figure = start_error(y, y0, end[: y0.numel()], smallest_size(self.solver, y0.numel()))
        tell(figure, self.solver, Limits.of(self.solver), lambda _error, _limit: _of_rounding(y0.dtype))


def _of_rounding(dtype: torch.dtype) -> str:
    """Return what helps where the steps' inverse has lost the state."""
    precise = "" if dtype == torch.float64 else "use float64, or "
    return f"the inverse of the steps magnifies rounding here; {precise}take aca or anode, which replay the steps"


def _unwatched(end: StepEnd) -> None:
    """Leave out the sample."""
