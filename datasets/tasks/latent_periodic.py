"""Noisy sinusoids, each seen at a few times of its own, by a latent ODE that is solved for at these times."""

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

END_TIME = 5.0
TIME_MARKS = 1_000
"""Times lie on so many marks of the interval, so that no two of a series are one in float32."""
FREQUENCIES = (0.2, 0.5)
"""Least and largest, in periods per unit of time."""
OBSERVED_NOISE = 0.1
"""Standard deviation of the observations' noise, which the model knows."""


class Sinusoids(NamedTuple):
    """Sinusoids at times of their own; those with fewer observations are padded behind them."""

    ts: Tensor
    """``[batch, 1 + most]``: 0 and the times of the observations, the last one repeated; on the CPU."""
    values: Tensor
    """``[batch, most, 1]``, with noise; 0 where there is none."""
    seen: Tensor
    """``[batch, most]``: whether there is an observation."""
    later: Tensor
    """``[batch, 1 + unseen]``: 0 and times at which nothing is seen, on the CPU."""
    clean: Tensor
    """``[batch, unseen, 1]``: the sinusoids there, without noise."""
    noise: Tensor
    """``[batch, latent]``, standard normal: the latent state is its mean plus its deviation times this."""


@dataclass(frozen=True)
class PeriodicSettings:
    """One size: the net, the data and the training."""

    latent: int
    hidden: int
    fewest: int
    """Observations of a series at least."""
    most: int
    unseen: int
    """Times of a series at which the metric is taken."""
    batch_size: int
    test_series: int
    training: Training


class PeriodicProblem:
    """A latent ODE on sinusoids: the loss is the negative evidence lower bound in nats an observation.

    The encoder is told of each observation how long after the one before it is, the first one after 0, where the
    latent state stands. The metric is the mean squared error of the decoded means against the sinusoids without noise,
    at times that the encoder has not seen.

    Parameters
    ----------
    model
        The latent ODE, on ``device`` and of ``dtype``.
    settings
        Sizes and training.
    seed
        Of the training series. The test series are the same for all seeds.
    device, dtype
        Of the observations.
    """

    model: nn.Module
    fields: Sequence[nn.Module]
    training: Training

    def __init__(
        self, model: LatentODE, settings: PeriodicSettings, seed: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.net = model
        self.model = model
        self.fields = (model.field,)
        self.training = settings.training
        self.settings = settings
        self.seed = seed
        self.device, self.dtype = device, dtype
        streams = (("validation", VALIDATION), ("test", TEST))
        self.held_out = {name: self._draw(settings.test_series, generator(0, stream)) for name, stream in streams}

    def batch(self, iteration: int) -> Sinusoids:
        """Return fresh series of ``iteration``."""
        return self._draw(self.settings.batch_size, generator(self.seed, TRAIN, iteration))

    def probe_batch(self) -> Sinusoids:
        """Return eight series that are in no training batch."""
        return self._draw(8, generator(self.seed, PROBE))

    def encode(self, batch: Sinusoids) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the deviation of the latent states at 0, ``[batch, latent]`` each."""
        gaps = sent_to(self.device, batch.ts.diff(dim=1))[..., None]
        return self.net.encode(torch.cat([batch.values, gaps], dim=-1), batch.seen)

    def loss(self, solve: Solve, batch: Any) -> Tensor:
        """Return the negative evidence lower bound in nats an observation, 0-d."""
        mean, log_deviation = self.encode(batch)
        found = self.net.decoded(solve, mean + log_deviation.exp() * batch.noise, batch.ts)[:, 1:]
        bounds = evidence_bounds(mean, log_deviation, found, batch.values, OBSERVED_NOISE, batch.seen)
        loss: Tensor = -bounds.sum() / batch.seen.sum()
        return loss

    def evaluate(self, solve: Solve, split: Split = "test") -> float:
        """Return the mean squared distance of the decoded means from held-out sinusoids at unseen times."""
        batch = self.held_out[split]
        with torch.no_grad():
            found = self.net.decoded(solve, self.encode(batch)[0], batch.later)[:, 1:]
            return float((found - batch.clean).square().mean())

    def dynamics(self, batch: Any) -> tuple[VectorField, State, Tensor]:
        """Return the field, the mean first latent states of ``batch`` (detached) and their times ``[batch, K]``."""
        with torch.no_grad():
            mean, _ = self.encode(batch)
        return self.net.field, mean, batch.ts

    def _draw(self, count: int, source: torch.Generator) -> Sinusoids:
        s = self.settings
        ticks = draw_ticks(count, s.most + s.unseen, source)
        number = torch.randint(s.fewest, s.most + 1, (count, 1), generator=source)
        seen = torch.arange(s.most) < number
        last = torch.where(seen, ticks[:, : s.most], 0).amax(dim=1, keepdim=True)
        own = torch.where(seen, ticks[:, : s.most], TIME_MARKS).sort(dim=1).values.minimum(last)
        later = ticks[:, s.most :].sort(dim=1).values
        phase, place = torch.rand(2, count, 1, dtype=torch.float64, generator=source)
        frequency = FREQUENCIES[0] + (FREQUENCIES[1] - FREQUENCIES[0]) * place
        noise = torch.randn(count, s.most, dtype=torch.float64, generator=source)
        latent = torch.randn(count, s.latent, dtype=torch.float64, generator=source)

        def sinusoid(times: Tensor) -> Tensor:
            return torch.sin(2.0 * math.pi * (frequency * times + phase))

        own, later = (END_TIME / TIME_MARKS * x.double() for x in (own, later))
        values = torch.where(seen, sinusoid(own) + OBSERVED_NOISE * noise, 0.0)
        ts, unseen = (torch.cat([torch.zeros(count, 1), x], dim=1).to(self.dtype) for x in (own, later))
        values, clean, latent = (
            sent_to(self.device, x, self.dtype) for x in (values[..., None], sinusoid(later)[..., None], latent)
        )
        return Sinusoids(ts, values, sent_to(self.device, seen), unseen, clean, latent)


def draw_ticks(count: int, each: int, source: torch.Generator) -> Tensor:
    """Return marks 1 to ``TIME_MARKS`` of ``count`` series, ``[count, each]``; none comes twice in a series."""
    return torch.rand(count, TIME_MARKS, dtype=torch.float64, generator=source).topk(each, dim=1).indices + 1


class LatentPeriodic(Sized[PeriodicSettings]):
    """Sinusoids of unlike phase and frequency, each seen at times of its own."""

    info: ClassVar[TaskInfo] = TaskInfo(
        name="latent_periodic",
        kind="time series",
        summary="noisy sinusoids at 10 to 20 times of their own; latent ODE solved for at each one's times",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 0.42, "default": 0.1, "paper": 0.03},
        offline=True,
        citation="generated, after Rubanova et al., Latent Ordinary Differential Equations for Irregularly-Sampled "
        "Time Series, NeurIPS 2019, section 5.1, arXiv:1907.03907",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, PeriodicSettings]] = {
        "tiny": PeriodicSettings(
            latent=4, hidden=20, fewest=6, most=10, unseen=8, batch_size=32, test_series=64,
            training=trained(200, adam=2e-2, sgd=1e-3, snopt=1e-3),
        ),
        "default": PeriodicSettings(
            latent=4, hidden=32, fewest=10, most=20, unseen=20, batch_size=64, test_series=256,
            training=trained(600, adam=1e-2, sgd=1e-3, snopt=1e-3, update_freq=100),
        ),
        "paper": PeriodicSettings(
            latent=6, hidden=64, fewest=10, most=20, unseen=20, batch_size=128, test_series=1_000,
            training=trained(3_000, adam=5e-3, sgd=1e-3, snopt=1e-3, update_freq=100),
        ),
    }  # fmt: skip

    def built(self, s: PeriodicSettings, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Build the latent ODE and its series."""
        net = seeded_module(
            lambda: LatentODE(1, s.latent, s.hidden, beside=1), generator(seed, PARAMETERS), device, dtype
        )
        return PeriodicProblem(net, s, seed, device, dtype)
