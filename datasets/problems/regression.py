"""A field fitted to known solutions of initial value problems: mean squared error at the output times."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve, Split, State, Training, VectorField

Pairs = tuple[Tensor, Tensor]
"""Initial states ``[batch, *state]`` and the true solution behind them ``[time - 1, batch, *state]``."""


class RegressionProblem(ABC):
    """A field fitted to solutions; loss and metric are the mean squared error over times, samples and components.

    Parameters
    ----------
    field
        The vector field, on the data's device and of their type.
    ts
        Output times ``[time]``; the first is the initial time.
    held_out
        Initial states and solutions by the name of the split.
    training
        How the field is trained.
    """

    model: nn.Module
    fields: Sequence[nn.Module]
    training: Training

    def __init__(self, field: nn.Module, ts: Tensor, held_out: Mapping[str, Pairs], training: Training) -> None:
        self.model = field
        self.fields = (field,)
        self.ts = ts
        self.held_out = held_out
        self.training = training

    @abstractmethod
    def batch(self, iteration: int) -> Pairs:
        """Return initial states ``[batch, *state]`` and solutions ``[time - 1, batch, *state]`` of ``iteration``."""

    @abstractmethod
    def probe_batch(self) -> Pairs:
        """Return eight initial states and their solutions."""

    def loss(self, solve: Solve, batch: Any) -> Tensor:
        """Return the mean squared error at the output times behind the first, 0-d."""
        starts, solutions = batch
        return nn.functional.mse_loss(solve(self.fields[0], starts, self.ts)[1:], solutions)

    def evaluate(self, solve: Solve, split: Split = "test") -> float:
        """Return the mean squared error on held-out solutions."""
        with torch.no_grad():
            return float(self.loss(solve, self.held_out[split]))

    def dynamics(self, batch: Any) -> tuple[VectorField, State, Tensor]:
        """Return the field, the initial states of ``batch`` and the times ``[time]``."""
        return self.fields[0], batch[0], self.ts
