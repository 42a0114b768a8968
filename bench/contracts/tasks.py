"""The task, and the problem that it builds from a seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from odegrad.contracts.fields import State, VectorField
from odegrad.contracts.methods import Solve

Scalar = str | int | float | bool
"""What an option may be: plain data that a suite file can hold."""

Batch = TypeVar("Batch", default=Any)
Batch_contra = TypeVar("Batch_contra", contravariant=True, default=Any)
"""What a problem draws for an iteration: the problem alone looks inside, everybody else hands it on."""


@dataclass(frozen=True)
class TaskInfo:
    """What a task states about itself: printed by ``odegrad list tasks --details``."""

    name: str
    kind: Literal["classification", "density", "inference", "time series", "closed form", "stiff"]
    summary: str
    metric_name: str
    """``accuracy`` (fraction in [0, 1]), ``nll`` (nats), ``mse``, ..."""
    higher_is_better: bool
    target: Mapping[str, float]
    """Size -> the metric's value that a good method reaches there."""
    offline: bool
    citation: str
    licence: str
    sizes: tuple[str, ...] = ("tiny", "default", "paper")
    limit: float | None = None
    """The metric's best possible expected value where it is known: a density's entropy for its ``nll``."""
    smooth: bool = True
    """False where the dynamics have kinks (ReLU): tight tolerances and high orders then take thousands of steps, and
    the gradient certificate's reference is solved less tightly."""

    def describe(self) -> str:
        """Return a few lines for people: what the task is, what it measures and aims at, its source and its licence."""
        better = "higher" if self.higher_is_better else "lower"
        targets = ", ".join(f"{value:g} at {size}" for size, value in self.target.items()) or "none"
        offline = "works offline" if self.offline else "fetched once"
        limit = "" if self.limit is None else f"; no model can expect better than {self.limit:g}"
        return "\n".join(
            (
                f"{self.name}: {self.summary}",
                f"kind: {self.kind}; sizes: {', '.join(self.sizes)}; {offline}",
                f"metric: {self.metric_name}, {better} is better; target: {targets}{limit}",
                f"source: {self.citation}",
                f"licence: {self.licence}",
            )
        )


@dataclass(frozen=True)
class Training:
    """How a task is trained at one size: the iterations and each optimizer's settings."""

    iterations: int
    optimizers: Mapping[str, Mapping[str, Scalar]]
    """Optimizer name -> its options, tuned for this task and size (``{"adam": {"lr": 1e-3}}``)."""
    default_optimizer: str = "adam"
    full_precond: bool = field(default=False)
    """Whether SNOpt also preconditions the layers outside the ODE."""
    schedule: Mapping[int, float] = field(default_factory=dict)
    """Iteration -> the factor on every initial learning rate from there on."""


Split = Literal["validation", "test"]
"""Held-out data: settings are chosen on ``validation``, results are told of ``test``."""


class Problem(Protocol[Batch]):
    """One task built from a seed: data on its device, a model with its vector field, a loss. Same for every method."""

    model: nn.Module
    """Every parameter that is trained."""
    fields: Sequence[nn.Module]
    """The vector fields inside ``model``."""
    training: Training

    def batch(self, iteration: int) -> Batch:
        """Return the training batch of ``iteration`` (0, 1, ...), a pure function of seed and iteration."""
        ...

    def probe_batch(self) -> Batch:
        """Return a small fixed batch (at most 16 samples) for gradient certificates and diagnostics."""
        ...

    def loss(self, solve: Solve, batch: Batch) -> Tensor:
        """Return the mean loss of ``batch``, a 0-d tensor that carries the graph."""
        ...

    def evaluate(self, solve: Solve, split: Split = "test") -> float:
        """Return the task's metric on held-out data, without a graph."""
        ...

    def dynamics(self, batch: Batch) -> tuple[VectorField, State, Tensor]:
        """Return the vector field, the initial state of ``batch`` (detached) and times ``[K]`` or ``[batch, K]``."""
        ...


@runtime_checkable
class ScoringProblem(Protocol[Batch_contra]):
    """A problem whose loss is the mean cross-entropy of scores: its Gauss-Newton curvature is known."""

    def scores(self, solve: Solve, batch: Batch_contra) -> Tensor:
        """Return the scores ``[batch, classes]`` of ``batch`` with their graph."""
        ...


@runtime_checkable
class HeldOutLoss(Protocol):
    """A problem that also tells its loss on held-out data, by which settings are chosen and targets set."""

    def held_out_loss(self, solve: Solve, split: Split) -> float:
        """Return the mean loss on held-out data, without a graph.

        The same for the same parameters: where the training's loss draws random numbers, these are frozen.
        """
        ...


@runtime_checkable
class TrainableEndTime(Protocol):
    """A problem whose integration time can be trained."""

    @property
    def end_time(self) -> Tensor:
        """The time that the ODE is solved up to: a 0-d leaf tensor of the model, which others may move in place.

        The loss depends on it with a graph where it requires a gradient.
        """
        ...


class Task(Protocol):
    """Data, model, time grid, loss, metric and target: a named experiment, all from a seed."""

    info: ClassVar[TaskInfo]

    def training(self, size: str) -> Training:
        """Return how the task is trained at ``size``; needs neither data nor model.

        Raises
        ------
        UnknownNameError
            If there is no such size.
        """
        ...

    def build(self, size: str, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Build the problem; two builds from one seed are equal bit for bit."""
        ...
