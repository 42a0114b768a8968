"""What a stepper is: it makes the steps of one solve; and what a step is, on the grid and as seen from it.

A stepper carries a vector ``x`` whose first ``d`` numbers are the state; a Runge-Kutta method carries nothing else.
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from odegrad.errors import UnsupportedError
from odegrad.methods.solvers.control import Controller
from odegrad.methods.solvers.dynamics import Dynamics


@dataclass(frozen=True)
class GridStep:
    """An accepted step from ``t`` to ``t_next = t + h``."""

    t: float
    h: float
    t_next: float
    outputs: tuple[tuple[int, float], ...]
    """The outputs that it reaches: their index, and where they lie in the step (1.0 is its end)."""
    stiff: bool = False
    """Whether a solver that switches between two methods has taken it by its implicit one."""

    @property
    def thetas(self) -> list[float]:
        """Return where the outputs inside the step lie in it."""
        return [theta for _, theta in self.outputs if theta != 1.0]

    @property
    def ends_at_output(self) -> bool:
        """Return whether an output time is the step's end."""
        return bool(self.outputs) and self.outputs[-1][1] == 1.0

    @property
    def inside(self) -> slice:
        """Return the indices of the outputs inside the step."""
        first = self.outputs[0][0] if self.outputs else 0
        return slice(first, first + len(self.thetas))

    @property
    def at_end(self) -> slice:
        """Return the index of the output at the step's end; empty if there is none."""
        return slice(self.inside.stop, self.inside.start + len(self.outputs))


class Stepper(abc.ABC):
    """Makes the steps of one solve."""

    @abc.abstractmethod
    def start(self, t: float, y0: Tensor) -> Tensor:
        """Return the carried vector that stands on ``y0 [d]``."""

    @abc.abstractmethod
    def rate(self, t: float, x: Tensor) -> Tensor:
        """Return ``f(t, y) [d]`` at the carried vector; what is known is not evaluated again."""

    @abc.abstractmethod
    def attempt(self, t: float, h: float, t_next: float, x: Tensor, *, whole: bool = True) -> Tensor:
        """Return the carried vector after a step from ``x``.

        ``whole=False`` leaves out the stage that only the next step and the dense output need.
        """

    @abc.abstractmethod
    def error(self, h: float) -> Tensor:
        """Return the estimate of the last attempt's error in the state, ``[d]``."""

    @property
    def stiff(self) -> bool:
        """Return whether the last attempt, of a solver that switches between two methods, was by its implicit one."""
        return False

    def repeat(self, step: GridStep) -> None:  # noqa: B027
        """Hear of the recorded step that the next attempt takes again."""

    def control(self, solvers: Controller, order: int) -> tuple[Controller, int]:
        """Return what controls the next attempt, and the power of the step that its error goes with.

        ``solvers`` and ``order`` are the solver's.
        """
        return solvers, order

    def read(self, ratio: Tensor, h: float, x: Tensor) -> float:  # noqa: ARG002
        """Return the last attempt's error ratio: the one read of the device."""
        return float(ratio)

    @property
    def controlled_by(self) -> Dynamics | None:
        """Return whose norm judges the steps, where it is not that of what is solved."""
        return None

    def judged(self, h: float, x: Tensor, x_next: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the last attempt is judged by: error, start and end, ``[d]`` each."""
        return self.error(h), x[:d].detach(), x_next[:d].detach()

    def standing(self, x: Tensor, d: int) -> Tensor:
        """Return what the first step is chosen by, beside ``rate``: the state ``[d]``."""
        return x[:d].detach()

    @abc.abstractmethod
    def accept(self) -> None:
        """Stand on the new state."""

    def dense(self, x: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the states ``[m, d]`` inside the last attempt; only a Runge-Kutta method knows them.

        Raises
        ------
        UnsupportedError
            If the scheme has no dense output.
        """
        raise no_dense_output(self, x, h, len(thetas))

    def polynomial(self, x: Tensor, h: float) -> Tensor:
        """Return the coefficients ``[q + 1, d]`` of the dense output in powers of theta.

        Raises
        ------
        UnsupportedError
            If the scheme has no dense output.
        """
        raise no_dense_output(self, x, h, 0)


def no_dense_output(stepper: Stepper, x: Tensor, h: float, count: int) -> UnsupportedError:
    """Return the error for a step that is known at its ends only."""
    name = type(stepper).__name__
    return UnsupportedError(
        f"{name}: expected a Runge-Kutta step for {count} states inside it, got one of size {h:g} from "
        f"{tuple(x.shape)}; use a solver with dense output such as dopri5"
    )


@dataclass
class AcceptedStep:
    """An accepted step, as seen while the loop stands on it: with the next one ``leave`` takes its ends away."""

    grid_step: GridStep
    x: Tensor
    x_next: Tensor
    d: int
    stepper: Stepper
    ys: Sequence[Tensor]
    """The states at the outputs that it reaches, ``[m, d]`` each, in their order."""

    @property
    def t(self) -> float:
        """Return the time at the start."""
        return self.grid_step.t

    @property
    def h(self) -> float:
        """Return the signed size."""
        return self.grid_step.h

    @property
    def t_next(self) -> float:
        """Return the time at the end."""
        return self.grid_step.t_next

    @property
    def y(self) -> Tensor:
        """Return the state ``[d]`` at the start."""
        return self.x[: self.d]

    @property
    def y_next(self) -> Tensor:
        """Return the state ``[d]`` at the end."""
        return self.x_next[: self.d]

    def at(self, times: Sequence[float]) -> Tensor:
        """Return the solution at ``times`` inside the step, ``[m, d]``, from the continuous extension."""
        return self.stepper.dense(self.x, self.h, [(time - self.t) / self.h for time in times])

    def polynomial(self) -> Tensor:
        """Return the continuous extension's coefficients ``[q + 1, d]`` in powers of ``(time - t) / h``."""
        return self.stepper.polynomial(self.x, self.h)

    def leave(self) -> None:
        """Let go of both ends, as the stepper moves on."""
        # A caller's loop variable lives until the next step is there: it must not hold a state through the attempt.
        del self.x, self.x_next
