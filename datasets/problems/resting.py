"""Fields whose state rests while its sensitivity does not, with the gradient in closed form.

An explicit solver's step control sees the state alone. Where that rests, the steps grow past the stability limit: the
state stays right, and the derivative of the steps is far from that of the flow.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve, Split, State, Training, VectorField
from odegrad.datasets.sources.seeding import PROBE, TEST, TRAIN, VALIDATION, generator
from odegrad.errors import UsageError
from odegrad.states import sent_to


class RestingField(nn.Module, ABC):
    """A field with a state in which it rests, and the derivative of the state at time 1 from there."""

    dim: int
    """Components of a state."""

    @abstractmethod
    def rest(self, count: int) -> Tensor:
        """Return ``count`` states ``[count, dim]`` at rest, without a graph."""

    @abstractmethod
    def pulled_back(self, cotangent: Tensor) -> list[Tensor]:
        """Return ``v . dy(1)/dtheta`` by trained parameter, for ``v [dim]``, from rest and in closed form."""


class ForcedDecay(RestingField):
    """``y' = -k (y - c)(2 + sin 20 t)``, ``y(1) - c = (y(0) - c) exp(-K)``: at rest in the centre it is built with."""

    FREQUENCY = 20.0

    def __init__(self, centre: Tensor, rate: float) -> None:
        super().__init__()
        self.dim, self.rate = len(centre), rate
        self.centre = nn.Parameter(centre)
        self.register_buffer("start", centre.clone())
        self.start: Tensor

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity ``[batch, dim]``."""
        return -self.rate * (y - self.centre) * (2.0 + torch.sin(self.FREQUENCY * t))

    def rest(self, count: int) -> Tensor:
        """Return the centre that the field was built with, ``[count, dim]``."""
        return self.start.expand(count, -1)

    def pulled_back(self, cotangent: Tensor) -> list[Tensor]:
        """Return ``(1 - exp(-K)) v``, with ``K = k int_0^1 (2 + sin 20 t) dt``.

        Raises
        ------
        UsageError
            If the centre is not where the state starts.
        """
        if not torch.equal(self.centre.detach(), self.start):
            raise UsageError("closed form of equilibrium: expected the centre as it is built, got a trained one")
        exponent = self.rate * (2.0 + (1.0 - math.cos(self.FREQUENCY)) / self.FREQUENCY)
        return [-math.expm1(-exponent) * cotangent]


class QuietNet(RestingField):
    """``y' = W2 tanh(W1 y + b1) + b2`` with fixed weights and trained biases: at rest in 0 while these are 0.

    ``W2 = -W1^T``, so that the Jacobian ``J = W2 W1`` at rest is symmetric; its least eigenvalue is ``least``.
    """

    def __init__(self, weight: Tensor, least: float) -> None:
        super().__init__()
        hidden, self.dim = weight.shape
        scaled = weight * math.sqrt(-least) / torch.linalg.matrix_norm(weight, ord=2)
        self.register_buffer("inner", scaled)
        self.inner_bias = nn.Parameter(weight.new_zeros(hidden))
        self.outer_bias = nn.Parameter(weight.new_zeros(self.dim))
        self.inner: Tensor

    def forward(self, _t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity ``[batch, dim]``."""
        return -torch.tanh(y @ self.inner.T + self.inner_bias) @ self.inner + self.outer_bias

    def rest(self, count: int) -> Tensor:
        """Return zeros, ``[count, dim]``: the usual start of augmented components."""
        return self.inner.new_zeros(count, self.dim)

    def pulled_back(self, cotangent: Tensor) -> list[Tensor]:
        """Return ``W2^T g`` and ``g = int_0^1 exp(J^T s) ds v``, by one exponential of ``[[J^T, I], [0, 0]]``.

        Raises
        ------
        UsageError
            If the biases are not 0: then 0 is no state of rest.
        """
        if bool(self.inner_bias.any()) or bool(self.outer_bias.any()):
            raise UsageError("closed form of quiet_start: expected biases of 0, as they are built, got trained ones")
        jacobian = -self.inner.T @ self.inner
        block = torch.cat([jacobian.T, torch.eye(self.dim).to(jacobian)], dim=1)
        exponential = torch.linalg.matrix_exp(torch.cat([block, torch.zeros_like(block)]))
        outer = exponential[: self.dim, self.dim :] @ cotangent
        return [-self.inner @ outer, outer]


@dataclass(frozen=True)
class RestingSettings:
    """One size: how stiff the equation is, the data drawn, and how it is trained."""

    stiffness: float
    dim: int
    batch_size: int
    training: Training


class RestingProblem:
    """A state that starts at rest is to end at targets: mean squared error, over samples and components, at time 1.

    Only with the initial parameters does the state rest.

    Parameters
    ----------
    field
        On the data's device and of their type.
    wanted
        The targets' centre ``[dim]``, in float64 on the CPU.
    noise
        Standard deviation of the targets around it.
    settings
        Sizes and training.
    seed
        Of the training targets; the held-out ones are the same for all seeds.
    """

    HELD_OUT = 256

    def __init__(self, field: RestingField, wanted: Tensor, noise: float, settings: RestingSettings, seed: int) -> None:
        self.field = field
        self.model: nn.Module = field
        self.fields: Sequence[nn.Module] = (field,)
        self.training = settings.training
        self.wanted, self.noise, self.seed, self.batch_size = wanted, noise, seed, settings.batch_size
        like = next(field.parameters())
        self.ts = torch.tensor([0.0, 1.0], dtype=like.dtype)
        self.held_out = {
            name: self._draw(self.HELD_OUT, generator(0, stream))
            for name, stream in (("validation", VALIDATION), ("test", TEST))
        }

    def batch(self, iteration: int) -> Tensor:
        """Return the targets ``[batch, dim]`` of ``iteration``."""
        return self._draw(self.batch_size, generator(self.seed, TRAIN, iteration))

    def probe_batch(self) -> Tensor:
        """Return eight targets ``[8, dim]``, in no training batch."""
        return self._draw(8, generator(self.seed, PROBE))

    def loss(self, solve: Solve, batch: Any) -> Tensor:
        """Return the mean squared error at time 1, 0-d."""
        ends = solve(self.field, self.field.rest(len(batch)), self.ts)[-1]
        return nn.functional.mse_loss(ends, batch)

    def evaluate(self, solve: Solve, split: Split = "test") -> float:
        """Return the mean squared error on held-out targets."""
        with torch.no_grad():
            return float(self.loss(solve, self.held_out[split]))

    def dynamics(self, batch: Any) -> tuple[VectorField, State, Tensor]:
        """Return the field, the states at rest ``[batch, dim]`` and the times ``[2]``."""
        return self.field, self.field.rest(len(batch)), self.ts

    def true_gradient(self, batch: Tensor) -> list[Tensor]:
        """Return the gradient of the loss in closed form, by trained parameter: at rest ``y(1) = y(0)``."""
        residual = self.field.rest(len(batch)) - batch
        return self.field.pulled_back((2.0 * residual / residual.numel()).sum(0))

    def _draw(self, count: int, source: torch.Generator) -> Tensor:
        normal = torch.randn(count, len(self.wanted), dtype=torch.float64, generator=source)
        like = next(self.field.parameters())
        return sent_to(like.device, self.wanted + self.noise * normal, like.dtype)
