"""Two-dimensional densities, drawn without end from a seed, and the continuous normalizing flow trained on them."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from odegrad.contracts import Problem, Solve, State, TaskInfo, Training, VectorField
from odegrad.datasets.nets.flow import FlowField, initial_state, log_density
from odegrad.datasets.nets.layers import ConcatSquashNet
from odegrad.datasets.problems.held_out import LossIsMetric
from odegrad.datasets.problems.sizes import Sized, trained
from odegrad.datasets.sources.arrays import Array
from odegrad.datasets.sources.seeding import (
    PARAMETERS,
    PROBE,
    TANH_SCALE,
    TEST,
    TRAIN,
    VALIDATION,
    generator,
    seeded_module,
)
from odegrad.states import sent_to


@dataclass(frozen=True)
class FlowSettings:
    """One size: the flow's hidden widths and end time, the data drawn, and how it is trained."""

    hidden: tuple[int, ...]
    end_time: float
    batch_size: int
    test_points: int
    training: Training


PLANE_SETTINGS: Mapping[str, FlowSettings] = {
    "tiny": FlowSettings(
        hidden=(32, 32),
        end_time=0.5,
        batch_size=100,
        test_points=1_000,
        training=trained(80, adam=2e-2, sgd=0.1, snopt=0.05, update_freq=10),
    ),
    "default": FlowSettings(
        hidden=(64, 64, 64),
        end_time=0.5,
        batch_size=100,
        test_points=4_000,
        training=trained(2_000, adam=1e-3, sgd=0.01, snopt=0.02, weight_decay=1e-5, eps=0.05, update_freq=100),
    ),
    "paper": FlowSettings(
        hidden=(64, 64, 64),
        end_time=0.5,
        batch_size=100,
        test_points=10_000,
        training=trained(10_000, adam=1e-3, sgd=0.01, snopt=0.02, weight_decay=1e-5, eps=0.05, update_freq=250),
    ),
}
"""Of every density in the plane; the paper's are those of Daulbaev et al., NeurIPS 2020, the default's a fifth."""


class ToyDensity(Sized[FlowSettings]):
    """A two-dimensional density: a subclass names itself, its settings and how to draw a point."""

    info: ClassVar[TaskInfo]
    settings: ClassVar[Mapping[str, FlowSettings]] = PLANE_SETTINGS

    @abstractmethod
    def sample(self, count: int, source: torch.Generator) -> Tensor:
        """Return ``count`` points ``[count, 2]`` in float64 on the CPU, drawn from ``source``."""

    @abstractmethod
    def density(self, points: Array) -> Array:
        """Return the density ``[count]`` at ``points [count, 2]``."""

    def built(self, s: FlowSettings, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Build the flow and its data."""
        source = generator(seed, PARAMETERS)
        velocity = seeded_module(lambda: ConcatSquashNet(2, s.hidden), source, device, dtype, scale=TANH_SCALE)
        return ToyDensityProblem(self, s, FlowField(velocity), seed, device, dtype)


class ToyDensityProblem(LossIsMetric):
    """A flow with exact trace from the data at t = 0 to a standard normal at ``end_time``; loss and metric in nats.

    Parameters
    ----------
    density
        Where points come from.
    settings
        Sizes and training.
    field
        The flow's vector field, on ``device`` and of ``dtype``.
    seed
        Of the training points. The test points are the same for all seeds.
    device, dtype
        Of the points.
    """

    model: nn.Module
    fields: Sequence[nn.Module]
    training: Training

    def __init__(
        self,
        density: ToyDensity,
        settings: FlowSettings,
        field: FlowField,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.density = density
        self.settings = settings
        self.field = field
        self.model = field
        self.fields = (field,)
        self.training = settings.training
        self.seed = seed
        self.ts = torch.tensor([0.0, settings.end_time], dtype=dtype)
        self.device = device
        self.held_out = {
            name: self._points(settings.test_points, generator(0, stream))
            for name, stream in (("validation", VALIDATION), ("test", TEST))
        }

    def batch(self, iteration: int) -> Tensor:
        """Return fresh points ``[batch, 2]`` of ``iteration``."""
        return self._points(self.settings.batch_size, generator(self.seed, TRAIN, iteration))

    def probe_batch(self) -> Tensor:
        """Return eight points ``[8, 2]`` that are in no training batch."""
        return self._points(8, generator(self.seed, PROBE))

    def _points(self, count: int, source: torch.Generator) -> Tensor:
        return sent_to(self.device, self.density.sample(count, source), self.ts.dtype)

    def loss(self, solve: Solve, batch: Any) -> Tensor:
        """Return the mean negative log-density of ``batch`` in nats, 0-d."""
        return -log_density(solve, self.field, batch, self.ts).mean()

    def dynamics(self, batch: Any) -> tuple[VectorField, State, Tensor]:
        """Return the flow's vector field, the state that starts at ``batch`` and the times ``[2]``."""
        return self.field, initial_state(batch), self.ts
