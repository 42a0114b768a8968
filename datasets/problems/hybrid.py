"""Fields whose state is reset on the way: a ball that bounces, a neuron that fires, doses at known times.

Where and when they are reset the solve finds out, by any gradient method that can end at an event: its time moves with
what it depends on (Chen, Amos and Nickel, ICLR 2021). The closed forms are for the data, and for the tests.
"""

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve, Split, State, Training, VectorField, event_solve
from odegrad.datasets.problems.regression import Pairs
from odegrad.event import Event

AT_REST = 1e-4
"""A ball whose flights are shorter than this share of the observed time lies still."""

LATEST_FIRING = 50.0
"""A neuron that has not fired before never does: its input is too small."""

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
        flight = (2 * inputs[0] / self.field.gravity).sqrt()
        return self._held(inputs), torch.stack([torch.zeros_like(flight), flight])

    def predicted(self, solve: Solve, inputs: Tensor) -> Tensor:
        """Return the heights ``[times]`` of a ball dropped from ``inputs [1]``.

        Each flight is a solve up to its end, and one to the times inside of it.
        """
        solve, end = event_solve(solve), self.times[-1]
        t, y = torch.zeros_like(inputs[0]), self._held(inputs)
        heights: list[Tensor] = []
        while len(heights) < len(self.times):
            waiting = self.times[len(heights) :]
            landing = solve.until(self.field, y, t, Event(_height, t_max=end, required=False))
            begin, stop = torch.stack([t.detach(), landing.time.detach()]).tolist()
            if landing.found and stop - begin <= AT_REST * end:
                return torch.cat([torch.stack(heights), inputs.new_zeros(len(waiting))])
            inside = [time for time in waiting if time < stop or not landing.found]
            if inside:
                ts = torch.cat([t.reshape(1), inputs.new_tensor(inside)])
                heights += list(solve(self.field, y, ts)[1:, 0, 0])
            velocity = landing.states[-1, 0, 1]
            t, y = landing.time, torch.stack([torch.zeros_like(velocity), -self.restitution * velocity])[None]
        return torch.stack(heights)

    def _held(self, inputs: Tensor) -> Tensor:
        """Return height and velocity ``[1, 2]`` of a ball that is held at ``inputs [1]``."""
        return torch.stack([inputs, torch.zeros_like(inputs)], dim=1)


def _height(_t: Tensor, y: Tensor) -> Tensor:
    """Return how high the ball is, ``y [1, 2]``."""
    return y[0, 0]


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
    """Potential and input ``[1, 2]`` of a neuron: ``u' = (w x - u) / tau``; the input stays."""

    def __init__(self, weight: float, time_constant: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.time_constant = nn.Parameter(torch.tensor(time_constant))

    def forward(self, _t: Tensor, y: Tensor) -> Tensor:
        """Return the rates ``[1, 2]``."""
        potential, inputs = y.unbind(1)
        rate = (self.weight * inputs - potential) / self.time_constant
        return torch.stack([rate, torch.zeros_like(rate)], dim=1)


class Neuron(HybridModel):
    """The periods ``[batch]`` of neurons that fire, and are reset to 0, where their potential reaches 1."""

    def __init__(self, weight: float, time_constant: float) -> None:
        super().__init__()
        self.field: LeakyIntegrator = LeakyIntegrator(weight, time_constant)

    def start(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the initial state ``[1, 2]`` of the first neuron, and start and end of its period."""
        period = firing_period(inputs[:1], self.field.weight, self.field.time_constant)
        return self._at_rest(inputs[0]), torch.cat([torch.zeros_like(period), period])

    def predicted(self, solve: Solve, inputs: Tensor) -> Tensor:
        """Return the periods of ``inputs [batch]``: one solve for each neuron, which fires at a time of its own."""
        solve, fires = event_solve(solve), Event(_above_threshold, t_max=LATEST_FIRING, direction=1)
        start = torch.zeros_like(inputs[0])
        return torch.stack([solve.until(self.field, self._at_rest(x), start, fires).time for x in inputs])

    def _at_rest(self, x: Tensor) -> Tensor:
        """Return potential and input ``[1, 2]`` of a neuron that has just fired."""
        return torch.stack([torch.zeros_like(x), x])[None]


def _above_threshold(_t: Tensor, y: Tensor) -> Tensor:
    """Return how far the potential of ``y [1, 2]`` is above that at which the neuron fires."""
    return y[0, 0] - 1.0


def firing_period(inputs: Tensor, weight: Tensor, time_constant: Tensor) -> Tensor:
    """Return ``tau ln(I / (I - 1))``, ``I = w x``, ``[batch]``; NaN or infinite where it never fires."""
    current = weight * inputs
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
