"""What fixed and adaptive stepping share: from output to output, an accepted step at a time."""

import abc
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from odegrad.methods.fields.callbacks import StepCallbacks
from odegrad.methods.solvers.control import StepSize
from odegrad.methods.solvers.dynamics import Dynamics
from odegrad.methods.solvers.ends.landing import OpenTimes, begin, landed
from odegrad.methods.solvers.one_step.solver import OneStepSolver
from odegrad.methods.solvers.stepper import AcceptedStep, GridStep, Stepper


@dataclass
class SteppingLoop(abc.ABC):
    """What adaptive and fixed stepping share."""

    stepper: Stepper
    dynamics: Dynamics
    solver: OneStepSolver
    d: int
    ts: Sequence[float]
    size: StepSize
    reached: int = 1
    """Outputs behind the loop, the initial state among them."""

    def __post_init__(self) -> None:
        """Find the callbacks of a user's field; a backward solve has none."""
        self.callbacks: StepCallbacks | None = getattr(self.dynamics, "callbacks", None)

    def steps(self, y0: Tensor) -> Iterator[AcceptedStep]:
        """Yield the accepted steps from ``y0`` to the last output time."""
        t, x = self.ts[0], self.stepper.start(self.ts[0], y0)
        if isinstance(self.ts, OpenTimes):
            begin(self.ts, self.stepper, x, self.d)
        for t_end in self.solver.landings(self.ts) if self.solver.step_t else self.solver.output_ends(self.ts):
            x = yield from self.advance(t, t_end, x)
            t = t_end

    @abc.abstractmethod
    def advance(self, t: float, t_end: float, x: Tensor) -> Generator[AcceptedStep, None, Tensor]:
        """Step from ``t`` to ``t_end``, the end of a step, and return the carried vector there."""

    def attempt(self, t: float, h: float, t_next: float, x: Tensor) -> Tensor:
        """Return the end of the step from ``(t, x)``, and tell a user's callback of it."""
        if self.callbacks is not None:
            self.callbacks.attempted(t, x[: self.d], h)
        return self.stepper.attempt(t, h, t_next, x)

    def accept(
        self, t: float, h: float, t_next: float, x: Tensor, x_next: Tensor
    ) -> Generator[AcceptedStep, None, tuple[Tensor, bool]]:
        """Yield the step, with the outputs that it reaches, and let the stepper stand on its end.

        Return that end, and whether the solve ends there: if its end is looked for and lies inside of the step, the
        step is redone to end there.
        """
        end = None
        if isinstance(self.ts, OpenTimes):
            end = landed(self.ts, self.stepper, t, h, t_next, x, x_next, self.d)
        if end is not None:
            h, t_next, x_next = end.h, end.t_next, end.x_next
        if self.solver.observer is not None:
            self.solver.observer.accepted(t, h)
        grid_step = GridStep(t, h, t_next, tuple(self._reached(t, h, t_next)), self.stepper.stiff)
        ys = [self.stepper.dense(x, h, grid_step.thetas)] if grid_step.thetas else []
        if grid_step.ends_at_output:
            ys.append(x_next[None, : self.d])
        self.reached += len(grid_step.outputs)
        step = AcceptedStep(grid_step, x, x_next, self.d, self.stepper, ys)
        yield step
        step.leave()
        self.stepper.accept()
        return x_next, end is not None

    def _reached(self, t: float, h: float, t_next: float) -> list[tuple[int, float]]:
        """Return the outputs in ``(t, t_next]``: index, and fraction of the step."""
        out = []
        k = self.reached
        while k < len(self.ts) and (t_next - self.ts[k]) * h >= 0:
            # At the end it is exactly 1, which says: the step's own state, and no interpolant.
            out.append((k, 1.0 if self.ts[k] == t_next else (self.ts[k] - t) / h))
            k += 1
        return out
