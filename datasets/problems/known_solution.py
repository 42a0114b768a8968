"""Vector fields with a solution in closed form, hence with a gradient in closed form, and the problem of fitting them.

The field itself is trained: its parameters start beside the true ones and are fitted to true solutions from random
initial states.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from odegrad.contracts import Problem, TaskInfo, Training
from odegrad.datasets.problems.regression import Pairs, RegressionProblem
from odegrad.datasets.problems.sizes import Sized
from odegrad.datasets.sources.seeding import PARAMETERS, PROBE, TEST, TRAIN, VALIDATION, generator
from odegrad.states import sent_to


class SolvableField(nn.Module, ABC):
    """A vector field that knows its solution from any initial state, for any value of its parameters."""

    dim: int
    """Components of a state."""

    @abstractmethod
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity ``[batch, dim]`` of ``y [batch, dim]``."""

    @abstractmethod
    def solution(self, y0: Tensor, ts: Tensor) -> Tensor:
        """Return the solution ``[time, batch, dim]`` from ``y0 [batch, dim]`` at ``ts[0]``, with its autograd graph."""


class LinearEquation(SolvableField):
    """``y' = A y``, solved by the matrix exponential: ``y(t) = exp(A t) y(0)``."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.dim = len(matrix)
        self.linear = nn.Linear(self.dim, self.dim, bias=False, device="meta")
        self.linear.weight = nn.Parameter(matrix)

    def forward(self, _t: Tensor, y: Tensor) -> Tensor:
        """Return ``A y`` for ``y [batch, dim]``."""
        velocity: Tensor = self.linear(y)
        return velocity

    def solution(self, y0: Tensor, ts: Tensor) -> Tensor:
        """Return ``exp(A (t - t_0)) y0`` ``[time, batch, dim]``."""
        flows = torch.linalg.matrix_exp((ts - ts[0])[:, None, None] * self.linear.weight)
        return torch.einsum("tij,bj->tbi", flows, y0)


class RotationField(SolvableField):
    """Independent planes, each turning at its angular velocity: ``p' = -w q``, ``q' = w p``, ``y = [p, q]``."""

    def __init__(self, velocity: Tensor) -> None:
        super().__init__()
        self.dim = 2 * len(velocity)
        self.velocity = nn.Parameter(velocity)

    def forward(self, _t: Tensor, y: Tensor) -> Tensor:
        """Return ``[-w q, w p]`` for ``y [batch, 2 planes]``."""
        p, q = y.chunk(2, dim=-1)
        return torch.cat([-self.velocity * q, self.velocity * p], dim=-1)

    def solution(self, y0: Tensor, ts: Tensor) -> Tensor:
        """Return ``y0`` turned by the angles ``w (t - t_0)``, ``[time, batch, 2 planes]``."""
        p, q = y0.chunk(2, dim=-1)
        angle = (ts - ts[0])[:, None, None] * self.velocity
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([p * cos - q * sin, p * sin + q * cos], dim=-1)


class LogisticField(SolvableField):
    """Independent populations, each growing to its capacity: ``y' = r y (1 - y / k)``."""

    def __init__(self, rate: Tensor, capacity: Tensor) -> None:
        super().__init__()
        self.dim = len(rate)
        self.rate = nn.Parameter(rate)
        self.capacity = nn.Parameter(capacity)

    def forward(self, _t: Tensor, y: Tensor) -> Tensor:
        """Return ``r y (1 - y / k)`` for ``y [batch, populations]``."""
        return self.rate * y * (1.0 - y / self.capacity)

    def solution(self, y0: Tensor, ts: Tensor) -> Tensor:
        """Return ``k / (1 + (k / y0 - 1) exp(-r (t - t_0)))`` ``[time, batch, populations]``."""
        decay = torch.exp(-self.rate * (ts - ts[0])[:, None, None])
        return self.capacity / (1.0 + (self.capacity / y0 - 1.0) * decay)


class FollowingField(SolvableField):
    """``y' = -rate (y - g) + g'`` with ``g = a cos(t + phase)``: every state falls to ``g`` at its own fixed rate.

    The amplitudes ``a`` and the phases are trained.
    """

    def __init__(self, rates: Tensor) -> None:
        super().__init__()
        self.dim = len(rates)
        self.register_buffer("rates", rates)
        self.rates: Tensor
        self.amplitude = nn.Parameter(torch.ones_like(rates))
        self.phase = nn.Parameter(torch.zeros_like(rates))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity ``[batch, dim]`` of ``y [batch, dim]``."""
        return self.stiff(t, y) + self.rest(t, y)

    def stiff(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the fall to ``g``, the half of an implicit-explicit solver's implicit steps."""
        return -self.rates * (y - self.amplitude * torch.cos(t + self.phase))

    def rest(self, t: Tensor, y: Tensor) -> Tensor:
        """Return ``g'``, its other half."""
        return (-self.amplitude * torch.sin(t + self.phase)).expand_as(y)

    def solution(self, y0: Tensor, ts: Tensor) -> Tensor:
        """Return ``g(t) + (y0 - g(t_0)) exp(-rate (t - t_0))``, ``[time, batch, dim]``."""
        followed = self.amplitude * torch.cos(ts[:, None, None] + self.phase)
        decay = torch.exp(-self.rates * (ts - ts[0])[:, None, None])
        return followed + (y0 - followed[0]) * decay


@dataclass(frozen=True)
class ClosedFormSettings:
    """One size: the true equation, its output times, the data drawn, and how the field is trained."""

    rates: tuple[float, ...]
    """The true equation's rates per unit of time; what each is, the task's ``truth`` says."""
    end_time: float
    intervals: int
    """Output times, equally spaced, behind the initial one."""
    offset: float
    """Largest distance of an initial parameter from the true one."""
    batch_size: int
    test_points: int
    training: Training


class ClosedForm(Sized[ClosedFormSettings]):
    """A solvable equation: a subclass names itself, its settings, the true field and the initial states."""

    info: ClassVar[TaskInfo]
    settings: ClassVar[Mapping[str, ClosedFormSettings]]

    @abstractmethod
    def truth(self, rates: Tensor) -> SolvableField:
        """Return the true field in the type of ``rates``."""

    def start(self, normal: Tensor) -> Tensor:
        """Return the initial states ``[count, dim]`` that standard normal numbers of that shape stand for."""
        return normal

    def built(self, s: ClosedFormSettings, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Build the field, its parameters drawn beside the true ones, and its data."""
        truth = self.truth(torch.tensor(s.rates, dtype=torch.float64)).requires_grad_(False)
        field, source = copy.deepcopy(truth).requires_grad_(True), generator(seed, PARAMETERS)
        with torch.no_grad():
            for parameter in field.parameters():
                draw = torch.rand(parameter.shape, dtype=torch.float64, generator=source)
                parameter.add_((2.0 * draw - 1.0) * s.offset)
        return ClosedFormProblem(self, s, truth, field.to(device, dtype), seed, device, dtype)


class ClosedFormProblem(RegressionProblem):
    """Fresh initial states in every batch, with the true solutions behind them.

    Parameters
    ----------
    task
        Where initial states come from.
    settings
        Sizes and training.
    truth
        The true field, in float64 on the CPU.
    field
        The field that is trained, on ``device`` and of ``dtype``.
    seed
        Of the training points. The test points are the same for all seeds.
    device, dtype
        Of the data.
    """

    def __init__(
        self,
        task: ClosedForm,
        settings: ClosedFormSettings,
        truth: SolvableField,
        field: SolvableField,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.task = task
        self.truth = truth
        self.field = field
        self.seed = seed
        self.batch_size = settings.batch_size
        self.times = torch.linspace(0.0, settings.end_time, settings.intervals + 1, dtype=torch.float64)
        self.device = device
        ts = self.times.to(dtype)
        held_out = {
            name: self._draw(settings.test_points, generator(0, stream), dtype)
            for name, stream in (("validation", VALIDATION), ("test", TEST))
        }
        super().__init__(field, ts, held_out, settings.training)

    def batch(self, iteration: int) -> Pairs:
        """Return fresh initial states ``[batch, dim]`` and solutions ``[time - 1, batch, dim]`` of ``iteration``."""
        return self._draw(self.batch_size, generator(self.seed, TRAIN, iteration), self.ts.dtype)

    def probe_batch(self) -> Pairs:
        """Return eight initial states ``[8, dim]``, in no training batch, and their solutions."""
        return self._draw(8, generator(self.seed, PROBE), self.ts.dtype)

    def true_gradient(self, batch: Pairs) -> list[Tensor]:
        """Return the gradient of the loss through the closed-form solution, by parameter, in float64."""
        field = copy.deepcopy(self.field).double()
        starts, solutions = (part.double() for part in batch)
        error = field.solution(starts, self.ts.to(starts))[1:] - solutions
        return list(torch.autograd.grad((error**2).mean(), list(field.parameters())))

    def _draw(self, count: int, source: torch.Generator, dtype: torch.dtype) -> Pairs:
        starts = self.task.start(torch.randn(count, self.truth.dim, dtype=torch.float64, generator=source))
        solutions = self.truth.solution(starts, self.times)[1:]
        return sent_to(self.device, starts, dtype), sent_to(self.device, solutions, dtype)
