"""Fields whose state is reset on the way: a ball that bounces, a neuron that fires, doses at known times.

The ``Solve`` of a task knows no events, so these problems land by themselves: they solve up to where the closed form
puts the event, for the parameters as they are, and move there by one step of Newton's on the *solved* state. Its value
is rounding; its derivative is ``dt*/dp = -(g_y . dy/dp) / (g_y . f)``, that of an event (Chen, Amos and Nickel, ICLR
2021), so the gradient is that of the events' times too, by any gradient method.
"""

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve, Split, State, Training, VectorField
from odegrad.datasets.problems.regression import Pairs

AT_REST = 1e-4
"""A ball whose flights are shorter than this share of the observed time lies still."""

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


class FreeFall(nn.Module):
    """Height and velocity ``[batch, 2]`` of a falling ball, by gravity."""

    def __init__(self, gravity: float) -> None:
        super().__init__()
        self.gravity = nn.Parameter(torch.tensor(gravity))

    def forward(self, _t: Tensor, y: Tensor) -> Tensor:
        """Return velocity and acceleration."""
        return torch.stack([y[:, 1], -self.gravity.expand(len(y))], dim=1)


class Ball(HybridModel):
    """The heights of one ball at ``times``, dropped from a height; it bounces with a restitution."""

    def __init__(self, gravity: float, restitution: float, times: Sequence[float]) -> None:
        super().__init__()
        self.field: FreeFall = FreeFall(gravity)
        self.restitution = nn.Parameter(torch.tensor(restitution))
        self.times = tuple(times)

    def start(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return height and velocity ``[1, 2]``, and start and end of the first flight."""
        flight, _ = self._flights(inputs)
        return self._held(inputs), torch.tensor([0.0, flight], dtype=inputs.dtype)

    def predicted(self, solve: Solve, inputs: Tensor) -> Tensor:
        """Return the heights ``[times]`` of a ball dropped from ``inputs [1]``: one solve for each flight."""
        y = self._held(inputs)
        heights: list[Tensor] = []
        # What a flight begins later than where the closed form puts it: zero, with the derivative of its begin.
        begin, late = 0.0, torch.zeros_like(inputs[0])
        flight, restitution = self._flights(inputs)
        while len(heights) < len(self.times):
            waiting = self.times[len(heights) :]
            if flight <= AT_REST * self.times[-1]:
                return torch.cat([torch.stack(heights), inputs.new_zeros(len(waiting))])
            inside = [t - begin for t in waiting if t - begin < flight]
            ends = [flight] if len(inside) < len(waiting) else []
            ys = solve(self.field, y, torch.tensor([0.0, *inside, *ends], dtype=inputs.dtype))
            heights += list((ys[1:, 0, 0] - ys[1:, 0, 1] * late)[: len(inside)])
            if ends:
                height, velocity = ys[-1, 0]
                moved = -height / velocity
                up = -self.restitution * (velocity - self.field.gravity * moved)
                y = torch.stack([torch.zeros_like(up), up])[None]
                late = late + moved
                # The first is half a flight: from the top.
                begin, flight = begin + flight, flight * restitution * (2.0 if begin == 0.0 else 1.0)
        return torch.stack(heights)

    def _held(self, inputs: Tensor) -> Tensor:
        """Return height and velocity ``[1, 2]`` of a ball that is held at ``inputs [1]``."""
        return torch.stack([inputs, torch.zeros_like(inputs)], dim=1)

    def _flights(self, inputs: Tensor) -> tuple[float, float]:
        """Return how long the ball falls from ``inputs [1]``, and how much shorter each flight is; without a graph."""
        # By the closed form and not from the solved state: any method and tolerance then solves over the same times.
        # Times are the host's, so these are the one read of the device that the task takes.
        height, gravity, restitution = torch.stack([inputs[0], self.field.gravity, self.restitution]).tolist()
        return math.sqrt(2 * height / gravity), restitution


def ball_heights(height: Tensor, restitution: Tensor, gravity: Tensor, times: Tensor) -> Tensor:
    """Return the heights ``[batch, time]`` of balls dropped from ``height [batch]``, in closed form, with its graph."""
    speed = (2 * height * gravity).sqrt()
    begin, up = -speed / gravity, speed  # the first half flight is that of a ball thrown up before
    out = torch.zeros(len(height), len(times), dtype=times.dtype)
    while bool((begin.detach() < times[-1]).any()) and bool((up.detach() > 1e-9).any()):
        since = times - begin[:, None]
        length = (2 * up / gravity)[:, None]
        out = torch.where((since > 0) & (since <= length), up[:, None] * since - gravity * since**2 / 2, out)
        begin, up = begin + length[:, 0], restitution * up
    return out


class LeakyIntegrator(nn.Module):
    """Potential, input and length of a period ``[batch, 3]``, over the fraction of the period that is past.

    ``u' = T (w x - u) / tau``: time runs in units of the period T of each sample, so that all end at 1.
    """

    def __init__(self, weight: float, time_constant: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.time_constant = nn.Parameter(torch.tensor(time_constant))

    def rate(self, potential: Tensor, inputs: Tensor) -> Tensor:
        """Return the rate of the potential per unit of time, ``[batch]``."""
        return (self.weight * inputs - potential) / self.time_constant

    def forward(self, _t: Tensor, y: Tensor) -> Tensor:
        """Return the rates ``[batch, 3]``."""
        potential, inputs, period = y.unbind(1)
        rate = period * self.rate(potential, inputs)
        return torch.stack([rate, torch.zeros_like(rate), torch.zeros_like(rate)], dim=1)


class Neuron(HybridModel):
    """The periods ``[batch]`` of neurons that fire, and are reset to 0, where their potential reaches 1."""

    def __init__(self, weight: float, time_constant: float) -> None:
        super().__init__()
        self.field: LeakyIntegrator = LeakyIntegrator(weight, time_constant)

    def start(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the initial state ``[batch, 3]``, and start and end of a period."""
        with torch.no_grad():
            period = firing_period(inputs, self.field.weight, self.field.time_constant)
        return torch.stack([torch.zeros_like(inputs), inputs, period], dim=1), torch.tensor(
            [0.0, 1.0], dtype=inputs.dtype
        )

    def predicted(self, solve: Solve, inputs: Tensor) -> Tensor:
        """Return the periods of ``inputs [batch]``."""
        y0, ts = self.start(inputs)
        potential, _, period = solve(self.field, y0, ts)[-1].unbind(1)
        return period + (1.0 - potential) / self.field.rate(potential, inputs)


def firing_period(inputs: Tensor, weight: Tensor, time_constant: Tensor) -> Tensor:
    """Return ``tau ln(I / (I - 1))``, ``I = w x``, ``[batch]``; a current that never fires counts as a little more."""
    current = (weight * inputs).clamp(min=1.01)
    return time_constant * torch.log(current / (current - 1.0))


class Elimination(nn.Module):
    """Depot, central amount and two covariates ``[batch, 4]``: absorbed at the rate ka, eliminated at k(covariates)."""

    def __init__(self, weights: Sequence[float], log_absorption: float, *, oral: bool) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))
        """Of ``ln k``: that of 1, and of each covariate."""
        log_ka = torch.tensor(log_absorption)
        self.log_absorption = nn.Parameter(log_ka) if oral else None

    def forward(self, _t: Tensor, y: Tensor) -> Tensor:
        """Return the rates ``[batch, 4]``; covariates stay."""
        depot, central, *covariates = y.unbind(1)
        lost = log_linear(self.weights, torch.stack(covariates, dim=1)).exp() * central
        absorbed = torch.zeros_like(depot) if self.log_absorption is None else self.log_absorption.exp() * depot
        rest = torch.zeros_like(depot)
        return torch.stack([-absorbed, absorbed - lost, rest, rest], dim=1)


class Patients(HybridModel):
    """The logarithms of concentrations ``[batch, time]`` after doses at known times, by covariates ``[batch, 2]``."""

    def __init__(
        self,
        field: Elimination,
        volume: Sequence[float],
        doses: Sequence[tuple[float, float]],
        times: Sequence[float],
    ) -> None:
        super().__init__()
        self.field: Elimination = field
        self.volume = nn.Parameter(torch.tensor(volume))
        """Weights of ``ln V``."""
        self.doses, self.times = tuple(doses), tuple(times)

    def start(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state ``[batch, 4]`` behind the first dose, and the times up to the next one."""
        nothing = torch.zeros_like(inputs[:, 0])
        y = torch.stack([nothing, nothing, *inputs.unbind(1)], dim=1)
        return self._dosed(y, self.doses[0][1]), self._segment(0, inputs.dtype)

    def predicted(self, solve: Solve, inputs: Tensor) -> Tensor:
        """Return the logarithms of the concentrations at the times: one solve from each dose to the next."""
        y, ts = self.start(inputs)
        amounts = []
        for j in range(len(self.doses)):
            ys = solve(self.field, y, ts)
            observed = len(ts) - 1 - (j + 1 < len(self.doses))
            amounts.append(ys[1 : 1 + observed, :, 1])
            if j + 1 < len(self.doses):
                y, ts = self._dosed(ys[-1], self.doses[j + 1][1]), self._segment(j + 1, inputs.dtype)
        return torch.cat(amounts).log().t() - log_linear(self.volume, inputs)[:, None]

    def _dosed(self, y: Tensor, dose: float) -> Tensor:
        """Return the state behind a dose, into the depot where there is one."""
        where = 0 if self.field.log_absorption is not None else 1
        return torch.stack([part + dose if i == where else part for i, part in enumerate(y.unbind(1))], dim=1)

    def _segment(self, j: int, dtype: torch.dtype) -> Tensor:
        begin = self.doses[j][0]
        ends = [self.doses[j + 1][0]] if j + 1 < len(self.doses) else []
        end = ends[0] if ends else math.inf
        return torch.tensor([begin, *(t for t in self.times if begin < t < end), *ends], dtype=dtype)


def log_linear(weights: Tensor, covariates: Tensor) -> Tensor:
    """Return ``w0 + w1 c1 + w2 c2``, ``[batch]``."""
    return weights[0] + covariates @ weights[1:]


def log_concentrations(model: Patients, inputs: Tensor) -> Tensor:
    """Return what ``model`` predicts in closed form, ``[batch, time]``, with its graph."""
    k = log_linear(model.field.weights, inputs).exp()[:, None]
    times = torch.tensor(model.times, dtype=inputs.dtype)
    amount = torch.zeros(len(inputs), len(times), dtype=inputs.dtype)
    for at, dose in model.doses:
        since = (times - at).clamp(min=0.0)
        response = torch.exp(-k * since)
        if model.field.log_absorption is not None:
            ka = model.field.log_absorption.exp()
            response = ka / (ka - k) * (response - torch.exp(-ka * since))
        amount = amount + dose * response * (times > at)
    return amount.log() - log_linear(model.volume, inputs)[:, None]
