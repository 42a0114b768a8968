"""An accepted step with its polynomial, for what can be read of it only when the end of the solve is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.methods.solvers.stepper import AcceptedStep
from odegrad.states import sent_to


@dataclass
class RecordedStep(AcceptedStep):
    """A step that outlives the loop; ``coefficients [q + 1, d]`` are those of its dense output."""

    coefficients: Tensor

    @classmethod
    def of(cls, step: AcceptedStep) -> "RecordedStep":
        """Return a record of ``step``, made while the loop stands on it."""
        return cls(step.grid_step, step.y, step.y_next, step.d, step.stepper, step.ys, step.polynomial()[:, : step.d])

    def at(self, times: Sequence[float]) -> Tensor:
        """Return the solution at ``times`` inside the step, ``[m, d]``."""
        thetas = torch.tensor([(time - self.t) / self.h for time in times], dtype=torch.float64)
        powers = thetas[:, None] ** torch.arange(len(self.coefficients))
        return sent_to(self.coefficients.device, powers, self.coefficients.dtype) @ self.coefficients

    def leave(self) -> None:
        """Keep both ends."""
