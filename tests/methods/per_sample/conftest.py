"""Fields whose samples are of unlike difficulty, and solves of them with steps of each sample's own."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient


class UnlikeNet(nn.Module):
    """``y' = W2 tanh(W1 [t, y])`` scaled by 3: larger states take more steps. Any kind of time."""

    def __init__(self, *, sample_time=True):
        super().__init__()
        self.sample_time = sample_time
        generator = torch.Generator().manual_seed(0)
        self.w1 = nn.Parameter(torch.randn(4, 8, generator=generator, dtype=torch.float64))
        self.w2 = nn.Parameter(torch.randn(8, 3, generator=generator, dtype=torch.float64))

    def forward(self, t, y):
        return torch.tanh(torch.cat([t.expand(*y.shape[:-1], 1), y], -1) @ self.w1) @ self.w2


class Sinh(nn.Module):
    """``y' = w sinh(y)``; far out an explicit step overflows."""

    sample_time = True

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, t, y):
        return self.w * torch.sinh(y)


class SpreadVanDerPol(nn.Module):
    """Van der Pol's oscillator with a stiffness for each sample, which is a part of the state and not judged."""

    sample_time, moving, unjudged = True, 1, 1

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t, y):
        (x, v), mu = y[0].split(1, dim=-1), y[1]
        return torch.cat([v, self.k * mu * (1 - x * x) * v - x], -1), torch.zeros_like(mu)


@dataclass
class Solved:
    """A solution, and the gradient of a weighted sum of it."""

    ys: torch.Tensor
    of_start: torch.Tensor
    of_parameters: torch.Tensor
    of_times: torch.Tensor | None

    def furthest_from(self, other):
        """Return the largest relative distance of solution, gradient by the start and by the parameters."""
        pairs = ((self.ys, other.ys), (self.of_start, other.of_start), (self.of_parameters, other.of_parameters))
        return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def per_sample(name="dopri5", rtol=1e-6, atol=1e-8, **options):
    """Return a solver whose samples have steps of their own."""
    return make_solver(name, rtol=rtol, atol=atol, batch="per_sample", **options)


def solved(method, solver, field, y0, ts, *, options=None, weights=None, of_times=False):
    """Solve, and differentiate ``sum w ys``."""
    y0 = y0.clone().requires_grad_()
    ts = ts.clone().requires_grad_(of_times)
    ys = build_gradient(method, options or {})(field, solver, y0, ts)
    if weights is None:
        weights = torch.sin(torch.arange(ys.numel(), dtype=ys.dtype)).view_as(ys)
    inputs = [y0, *field.parameters(), *([ts] if of_times else [])]
    of_start, *found = torch.autograd.grad((ys * weights).sum(), inputs)
    of_times_found = found.pop() if of_times else None
    return Solved(ys.detach(), of_start, torch.cat([g.reshape(-1) for g in found]), of_times_found)


@pytest.fixture(scope="session")
def kit():
    """Fields, solvers and solves, for every test here."""
    return SimpleNamespace(
        UnlikeNet=UnlikeNet, Sinh=Sinh, SpreadVanDerPol=SpreadVanDerPol, per_sample=per_sample, solved=solved
    )


@pytest.fixture
def unlike():
    """Return a field and eight starts, from 0.1 to 4 in size."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.linspace(0.1, 4.0, 8, dtype=torch.float64)[:, None]
    return UnlikeNet(), torch.randn(8, 3, generator=generator, dtype=torch.float64) * sizes
