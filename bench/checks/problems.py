"""The problems of the conformance checks: closed forms, a smooth net, a recording field, gradients as one vector."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odegrad.contracts import GradientMethod, ImplicitWork, pass_on
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.user.models import Loss

Solution = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""``(theta, y0, t0, t1) -> y(t1)``, differentiable in all four."""


class _Scalar(nn.Module):
    """A field with one parameter tensor ``theta``."""

    def __init__(self, theta: Tensor, rate: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta)
        self.rate = rate

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.rate(self.theta, t, y)


@dataclass(frozen=True)
class SolvedEquation:
    """An initial value problem whose solution, and so whose gradient, is known in closed form."""

    name: str
    theta: tuple[Any, ...] | float
    rate: Callable[[Tensor, Tensor, Tensor], Tensor]
    solution: Solution

    def field(self) -> nn.Module:
        """Return the vector field in float64."""
        return _Scalar(torch.tensor(self.theta, dtype=torch.float64), self.rate)

    def start(self) -> Tensor:
        """Return the initial states ``[3, 2]``."""
        return torch.tensor([[0.3, 0.5], [0.7, 0.2], [0.45, 0.6]], dtype=torch.float64)


CLOSED_FORMS = (
    SolvedEquation(
        "growth: y' = theta y",
        -0.8,
        lambda th, _t, y: th * y,
        lambda th, y0, t0, t1: y0 * torch.exp(th * (t1 - t0)),
    ),
    SolvedEquation(
        "linear: y' = A y",
        ((-0.5, 1.2), (-1.0, -0.3)),
        lambda th, _t, y: y @ th.T,
        lambda th, y0, t0, t1: y0 @ torch.linalg.matrix_exp(th * (t1 - t0)).T,
    ),
    SolvedEquation(
        "logistic: y' = theta y (1 - y)",
        1.3,
        lambda th, _t, y: th * y * (1 - y),
        lambda th, y0, t0, t1: 1 / (1 + (1 / y0 - 1) * torch.exp(-th * (t1 - t0))),
    ),
    SolvedEquation(
        "cubic: y' = -theta y^3 / 2",
        1.0,
        lambda th, _t, y: -0.5 * th * y**3,
        lambda th, y0, t0, t1: y0 / torch.sqrt(1 + th * y0**2 * (t1 - t0)),
    ),
    SolvedEquation(
        "forced: y' = theta cos(t) y",
        0.9,
        lambda th, t, y: th * torch.cos(t) * y,
        lambda th, y0, t0, t1: y0 * torch.exp(th * (torch.sin(t1) - torch.sin(t0))),
    ),
)
"""Gold check G1's problems."""


class SmoothNet(nn.Module):
    """``f = W3 tanh(W2 tanh(W1 [z; t] + b1) + b2) + b3`` in float64, drawn from a seed.

    With the defaults it is the smooth net whose figures the interpolation checks quote:
    ``W = 1.5 randn / sqrt(fan_in)``, ``b = 0.1 randn``.
    """

    def __init__(self, d: int = 8, hidden: int = 32, seed: int = 0, scale: float = 1.5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for out, fan_in in ((hidden, d + 1), (hidden, hidden), (d, hidden)):
            self.weights.append(nn.Parameter(scale * draw(out, fan_in) / math.sqrt(fan_in)))
            self.biases.append(nn.Parameter(0.1 * draw(out)))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt [batch, d]``."""
        x = torch.cat([z, t.expand(*z.shape[:-1], 1)], dim=-1)
        x = torch.tanh(nn.functional.linear(x, self.weights[0], self.biases[0]))
        x = torch.tanh(nn.functional.linear(x, self.weights[1], self.biases[1]))
        return nn.functional.linear(x, self.weights[2], self.biases[2])


def smooth_net_for(method: GradientMethod, scale: float = 1.5) -> SmoothNet:
    """Return the smooth net of 8 variables, with few parameters for a method that carries a column for each."""
    return SmoothNet(hidden=8 if method.traits.state_from == "columns" else 32, scale=scale)


def smooth_net_start() -> tuple[Tensor, Tensor]:
    """Return the smooth net's initial states ``[16, 8]`` and targets ``[16, 8]`` in float64."""
    generator = torch.Generator().manual_seed(1)
    y0 = torch.randn(16, 8, generator=generator, dtype=torch.float64)
    return y0, torch.randn(16, 8, generator=generator, dtype=torch.float64)


class Recorded(nn.Module):
    """A field that notes the time of every call."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field
        self.times: list[float] = []
        pass_on(field, self)

    def forward(self, t: Tensor, y: Any) -> Any:
        """Return what the field returns."""
        self.times.append(t.item())
        return self.field(t, y)


class StepLog:
    """Notes every accepted and rejected step, and the work of implicit ones."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.rejections = 0
        self.works: list[ImplicitWork] = []

    def accepted(self, t: float, h: float) -> None:
        """Note the end of an accepted step."""
        self.ends.append(t + h)

    def rejected(self, t: float, h: float) -> None:  # noqa: ARG002
        """Note a rejected step."""
        self.rejections += 1

    def worked(self, work: ImplicitWork) -> None:
        """Note the work of an implicit step."""
        self.works.append(work)


def gradient(
    method: GradientMethod,
    field: nn.Module,
    solver: OneStepSolver,
    y0: Tensor | Sequence[Tensor],
    ts: Tensor,
    loss: Loss,
    *,
    of_times: bool = False,
) -> Tensor:
    """Return ``dL/d(y0, parameters[, ts])`` as one vector; an unused part counts as zeros."""
    parts = [y0] if isinstance(y0, Tensor) else list(y0)
    leaves = [p.detach().clone().requires_grad_() for p in parts]
    times = ts.detach().clone().requires_grad_(of_times)
    start = leaves[0] if isinstance(y0, Tensor) else tuple(leaves)
    inputs = [*leaves, *(p for p in field.parameters() if p.requires_grad), *([times] if of_times else [])]
    value = loss(method(field, solver, start, times))
    grads = torch.autograd.grad(value, inputs, allow_unused=True)
    flat = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, grads, strict=True)]
    return torch.cat([g.reshape(-1) for g in flat])


def relative(a: Tensor, b: Tensor) -> float:
    """Return ``||a - b|| / ||b||``."""
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))
