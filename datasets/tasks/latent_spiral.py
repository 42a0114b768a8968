"""Noisy spirals by a latent ODE: a recurrent encoder, an ODE from a latent state over a hundred times, a decoder."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from odegrad.contracts import Problem, Solve, Split, State, TaskInfo, Training, VectorField
from odegrad.datasets.nets.latent_ode import LatentODE
from odegrad.datasets.problems.gaussian import evidence_bounds
from odegrad.datasets.problems.sizes import Sized, trained
from odegrad.datasets.sources.seeding import PARAMETERS, PROBE, TEST, TRAIN, VALIDATION, generator, seeded_module
from odegrad.states import sent_to

DIMENSIONS = 2
TURNS = 3.0
"""Of a whole spiral about the origin."""
POINTS = 600
"""Of a whole spiral, evenly spaced in angle; a sample is a stretch of them."""


class Spirals(NamedTuple):
    """Stretches of spirals, and the noise of their encoding."""

    seen: Tensor
    """``[batch, times, 2]``, with noise."""
    clean: Tensor
    """The same without."""
    noise: Tensor
    """``[batch, latent]``, standard normal: the latent state is its mean plus its deviation times this."""


@dataclass(frozen=True)
class SpiralSettings:
    """One size: the net, the data and the training."""

    times: int
    latent: int
    hidden: int
    batch_size: int
    test_spirals: int
    training: Training
    end_time: float = 3.0
    noise: float = 0.1
    """Standard deviation of the points' noise, which the model knows."""


class SpiralProblem:
    """A latent ODE on spirals: the loss is the negative evidence lower bound in nats a spiral and time.

    The metric is the mean squared error of the decoded means against the spirals without noise.

    Parameters
    ----------
    model
        The latent ODE, on ``device`` and of ``dtype``.
    settings
        Sizes and training.
    seed
        Of the training spirals. The test spirals are the same for all seeds.
    device, dtype
        Of the points.
    """

    model: nn.Module
    fields: Sequence[nn.Module]
    training: Training

    def __init__(
        self, model: LatentODE, settings: SpiralSettings, seed: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.net = model
        self.model = model
        self.fields = (model.field,)
        self.training = settings.training
        self.settings = settings
        self.seed = seed
        grid = torch.linspace(0.0, settings.end_time, settings.times, dtype=torch.float64)
        self.ts, self.device = grid.to(dtype), device
        count = settings.test_spirals
        streams = (("validation", VALIDATION), ("test", TEST))
        self.held_out = {name: self._draw(count, generator(0, stream)) for name, stream in streams}

    def batch(self, iteration: int) -> Spirals:
        """Return fresh spirals of ``iteration``."""
        return self._draw(self.settings.batch_size, generator(self.seed, TRAIN, iteration))

    def probe_batch(self) -> Spirals:
        """Return eight spirals that are in no training batch."""
        return self._draw(8, generator(self.seed, PROBE))

    def loss(self, solve: Solve, batch: Any) -> Tensor:
        """Return the mean negative evidence lower bound in nats a time, 0-d."""
        mean, log_deviation = self.net.encode(batch.seen)
        found = self.net.decoded(solve, mean + log_deviation.exp() * batch.noise, self.ts)
        bounds = evidence_bounds(mean, log_deviation, found, batch.seen, self.settings.noise)
        return -bounds.mean() / self.settings.times

    def evaluate(self, solve: Solve, split: Split = "test") -> float:
        """Return the mean squared distance, a coordinate, of the decoded means from held-out spirals without noise."""
        batch = self.held_out[split]
        with torch.no_grad():
            mean, _ = self.net.encode(batch.seen)
            found = self.net.decoded(solve, mean, self.ts)
            return float((found - batch.clean).square().mean())

    def dynamics(self, batch: Any) -> tuple[VectorField, State, Tensor]:
        """Return the field, the mean first latent states of ``batch`` (detached) and the times ``[times]``."""
        with torch.no_grad():
            mean, _ = self.net.encode(batch.seen)
        return self.net.field, mean, self.ts

    def _draw(self, count: int, source: torch.Generator) -> Spirals:
        clean = draw_spirals(count, self.settings.times, source)
        noise = torch.randn(clean.shape, dtype=torch.float64, generator=source)
        latent = torch.randn(count, self.settings.latent, dtype=torch.float64, generator=source)
        every = (clean + self.settings.noise * noise, clean, latent)
        return Spirals(*(sent_to(self.device, x, self.ts.dtype) for x in every))


def draw_spirals(count: int, times: int, source: torch.Generator) -> Tensor:
    """Return stretches ``[count, times, 2]`` of Archimedean spirals that wind outwards to the left, or to the right.

    The radius is the share of the angle that has passed, plus a tenth; the stretch begins anywhere before its end.
    """
    turns_left = torch.randint(2, (count, 1), generator=source)
    begin = torch.randint(POINTS - times, (count, 1), generator=source)
    share = (begin + torch.arange(times)).double() / POINTS
    angle = 2.0 * math.pi * TURNS * share
    side = 2.0 * turns_left - 1.0
    return (0.1 + share)[..., None] * torch.stack([angle.cos(), side * angle.sin()], dim=-1)


class LatentSpiral(Sized[SpiralSettings]):
    """Spirals of a hundred points with noise, either way round."""

    info: ClassVar[TaskInfo] = TaskInfo(
        name="latent_spiral",
        kind="time series",
        summary="noisy spirals at 100 times; latent ODE: recurrent encoder, ODE, decoder; evidence lower bound",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 3e-2, "default": 2e-3, "paper": 2e-3},
        offline=True,
        citation="generated, after Chen et al., Neural Ordinary Differential Equations, NeurIPS 2018, section 5.1",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, SpiralSettings]] = {
        "tiny": SpiralSettings(
            times=20,
            latent=4,
            hidden=20,
            batch_size=64,
            test_spirals=128,
            training=trained(80, adam=1e-2, sgd=1e-3, snopt=1e-3),
        ),
        "default": SpiralSettings(
            times=100,
            latent=4,
            hidden=32,
            batch_size=100,
            test_spirals=256,
            training=trained(500, adam=5e-3, sgd=1e-3, snopt=1e-3, update_freq=100),
        ),
        "paper": SpiralSettings(
            times=100,
            latent=4,
            hidden=32,
            batch_size=250,
            test_spirals=1_000,
            training=trained(2_000, adam=5e-3, sgd=1e-3, snopt=1e-3, update_freq=100),
        ),
    }

    def built(self, s: SpiralSettings, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Build the latent ODE and its spirals."""
        net = seeded_module(
            lambda: LatentODE(DIMENSIONS, s.latent, s.hidden), generator(seed, PARAMETERS), device, dtype
        )
        return SpiralProblem(net, s, seed, device, dtype)
