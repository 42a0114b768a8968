"""Four problems of different make: what a function call costs beside the solver decides which method pays."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from odegrad.contracts import GradientMethod, State
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.registry import build_solver


class ToyFlow(nn.Module):
    """P1: tanh net on [z, t], 3-64-64-2, exact trace by two autograd calls."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))

    def forward(self, t, state):
        z, _ = state
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            dz = self.net(torch.cat([z, t.expand(len(z), 1)], 1))
            trace = sum(torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(2))
        return (dz, -trace) if torch.is_grad_enabled() else (dz.detach(), -trace.detach())


class TabularFlow(nn.Module):
    """P2: softplus net 43-860-860-43 with t at every layer, Hutchinson's trace with a fixed probe."""

    def __init__(self, probe):
        super().__init__()
        self.register_buffer("probe", probe)
        sizes = [43, 860, 860, 43]
        self.layers = nn.ModuleList(nn.Linear(a + 1, b) for a, b in itertools.pairwise(sizes))

    def forward(self, t, state):
        z, _ = state
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            x = z
            for i, layer in enumerate(self.layers):
                x = layer(torch.cat([x, t.expand(len(x), 1)], 1))
                x = nn.functional.softplus(x) if i < 2 else x
            (product,) = torch.autograd.grad((x * self.probe).sum(), z, create_graph=True)
            trace = (product * self.probe).sum(1)
        return (x, -trace) if torch.is_grad_enabled() else (x.detach(), -trace.detach())


class ImageNet(nn.Module):
    """P3: GroupNorm-ReLU-conv-GroupNorm-ReLU-conv-GroupNorm, 64 channels, t as an extra channel."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(32, 64) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(65, 64, 3, padding=1) for _ in range(2))

    def forward(self, t, y):
        for norm, conv in zip(self.norms, self.convs, strict=False):
            y = torch.relu(norm(y))
            y = conv(torch.cat([t.expand(len(y), 1, *y.shape[2:]), y], 1))
        return self.norms[2](y)


class LatentNet(nn.Module):
    """P4: tanh net 20-50-50-20."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 50), nn.Tanh(), nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, 20))

    def forward(self, t, y):
        return self.net(y)


@dataclass
class TimedProblem:
    """A field with its start, output times, tolerances and loss, in float32."""

    field: nn.Module
    y0: State
    ts: torch.Tensor
    rtol: float
    atol: float
    loss: Callable[[Any], torch.Tensor]
    dense: bool = False
    """Whether there are outputs enough to read them from the dense output."""

    def solver(self, factor: float = 1.0, **options: Any) -> OneStepSolver:
        """Return dopri5 at ``factor`` times the tolerances."""
        options = ({"outputs": "dense"} if self.dense else {}) | options
        return build_solver("dopri5", factor * self.rtol, factor * self.atol, options)

    def gradient(self, method: GradientMethod, solver: OneStepSolver | None = None) -> torch.Tensor:
        """Return the gradient with respect to the parameters, one vector."""
        value = self.loss(method(self.field, solver or self.solver(), self.y0, self.ts))
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(self.field.parameters()))])

    def reference(self) -> torch.Tensor:
        """Return the float64 gradient at a hundredth of the tolerance, by naive backprop with dopri5."""
        y0, ts = self.y0, self.ts
        try:
            self.field.double()
            self.y0 = tuple(p.double() for p in y0) if isinstance(y0, tuple) else y0.double()
            self.ts = ts.double()
            return self.gradient(Naive(), self.solver(0.01, outputs="step_ends"))
        finally:
            self.field.float()
            self.y0, self.ts = y0, ts


def build(name: str) -> TimedProblem:
    """Return the problem P1 to P4."""
    torch.manual_seed(0)

    def flow_loss(ys):
        return (0.5 * ys[0][-1].pow(2).sum(1) + ys[1][-1]).mean()

    unit = torch.tensor([0.0, 1.0])
    if name == "P1":
        return TimedProblem(ToyFlow(), (torch.randn(512, 2), torch.zeros(512)), unit, 1e-5, 1e-5, flow_loss)
    if name == "P2":
        field = TabularFlow(torch.randn(256, 43))
        return TimedProblem(field, (torch.randn(256, 43), torch.zeros(256)), unit, 1e-5, 1e-5, flow_loss)
    if name == "P3":
        projection = torch.randn(128, 64, 6, 6) / 100
        y0 = torch.randn(128, 64, 6, 6)
        return TimedProblem(ImageNet(), y0, unit, 1e-3, 1e-3, lambda ys: (ys[-1] * projection).sum())
    target = torch.randn(100, 50, 20)
    ts = torch.linspace(0.0, 4.0, 100)
    return TimedProblem(
        LatentNet(), torch.randn(50, 20), ts, 1e-5, 1e-6, lambda ys: (ys - target).pow(2).mean(), dense=True
    )
