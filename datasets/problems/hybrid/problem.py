"""Fields whose state is reset on the way: a ball that bounces, a neuron that fires, doses at known times.

Where and when they are reset the solve finds out, by any gradient method that can end at an event: its time moves with
what it depends on (Chen, Amos and Nickel, ICLR 2021). The closed forms are for the data, and for the tests.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve, Split, State, Training, VectorField
from odegrad.datasets.problems.regression import Pairs

Draw = Callable[..., Pairs]
"""Draws inputs and targets from a stream of the seed."""


@dataclass(frozen=True)
class HybridSettings:
    """One size."""

    batch_size: int
    noise: float
    """Spread of the training targets."""
    offset: float
    """Largest relative distance of an initial parameter from the true one."""
    held_out: int
    training: Training
    oral: bool = False
    """Whether doses are absorbed from a depot."""


class HybridProblem:
    """Inputs and targets drawn anew for every batch; loss and metric are the mean squared error.

    Parameters
    ----------
    model
        With a ``field`` and ``predicted(solve, inputs)``.
    draw
        ``draw("train", iteration)``, ``draw("probe")``, ``draw("test")``, ``draw("validation")``: inputs and targets,
        those of the last two without noise.
    training
        How the model is trained.
    """

    def __init__(self, model: "HybridModel", draw: Draw, training: Training) -> None:
        self.model: nn.Module = model
        self.hybrid = model
        self.fields: Sequence[nn.Module] = (model.field,)
        self.training = training
        self._draw = draw
        self._held_out: Mapping[str, Pairs] = {split: draw(split) for split in ("validation", "test")}

    def batch(self, iteration: int) -> Pairs:
        """Return the inputs and the noisy targets of ``iteration``."""
        return self._draw("train", iteration)

    def probe_batch(self) -> Pairs:
        """Return inputs and noisy targets that are in no training batch."""
        return self._draw("probe")

    def loss(self, solve: Solve, batch: Pairs) -> Tensor:
        """Return the mean squared error, 0-d."""
        inputs, targets = batch
        return nn.functional.mse_loss(self.hybrid.predicted(solve, inputs), targets)

    def evaluate(self, solve: Solve, split: Split = "test") -> float:
        """Return the mean squared error on held-out inputs whose targets have no noise."""
        with torch.no_grad():
            return float(self.loss(solve, self._held_out[split]))

    def dynamics(self, batch: Pairs) -> tuple[VectorField, State, Tensor]:
        """Return the field, the first initial state of ``batch`` and the times up to the first reset."""
        with torch.no_grad():
            y0, ts = self.hybrid.start(batch[0])
        return self.hybrid.field, y0.detach(), ts


class HybridModel(nn.Module, abc.ABC):
    """A field, and what it predicts of inputs by several solves."""

    field: nn.Module

    @abc.abstractmethod
    def predicted(self, solve: Solve, inputs: Tensor) -> Tensor:
        """Return what the targets are of."""

    @abc.abstractmethod
    def start(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first initial state ``[batch, *state]`` and the times up to the first reset."""
