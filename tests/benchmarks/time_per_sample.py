"""Measure where steps of each sample's own pay: it prints processor seconds per gradient, relative to shared steps.

An image field (group norm, ReLU, convolution, twice) on 64 x 6 x 6 and 64 x 12 x 12 numbers, whose call grows with its
rows, and a small net, whose call hardly does; 64 samples, each with a rate of its own from 1 to ``spread``.
The two loops take turns. ``python tests/benchmarks/time_per_sample.py [rounds]``
"""

import statistics
import sys
import time

import torch
from torch import Tensor, nn

from odegrad.checks.problems import StepLog
from odegrad.datasets.nets.layers import ConcatConv2d
from odegrad.methods.solvers.solver import OneStepSolver, make_solver
from odegrad.registry import build_gradient

BATCH = 64
END = 8.0
SPREADS = (1.0, 2.0, 4.0, 7.0)


class _Rated(nn.Module):
    """``dy/dt = r f(r t, y)`` with a rate ``r [batch, 1]`` that rests, and that no step is judged by."""

    sample_time, moving, unjudged = True, 1, 1

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the derivative of both."""
        y, rate = state
        r = rate.view(-1, *[1] * (y.dim() - 1))
        return r * self.velocity(r * t, y), torch.zeros_like(rate)

    def velocity(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity at ``t [batch, 1, ...]``."""
        raise NotImplementedError


class ImageField(_Rated):
    """GroupNorm-ReLU-conv-GroupNorm-ReLU-conv-GroupNorm on 64 channels; convolutions see a sine of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(32, 64) for _ in range(3))
        self.convolutions = nn.ModuleList(ConcatConv2d(64, 64) for _ in range(2))

    def velocity(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity ``[batch, 64, height, width]``."""
        for norm, convolution in zip(self.norms, self.convolutions, strict=False):
            y = convolution(torch.sin(4.0 * t), torch.relu(norm(y)))
        out: Tensor = self.norms[2](y)
        return out


class SmallNet(_Rated):
    """Tanh net 20-50-20."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 50), nn.Tanh(), nn.Linear(50, 20))

    def velocity(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity ``[batch, 20]``."""
        out: Tensor = self.layers(y) + 2.0 * torch.cos(4.0 * t)
        return out


class _Log(StepLog):
    """Steps, and rounds where there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.least = self.most = self.mean = 0.0

    def solved_in_rounds(self, counts: object) -> None:
        """Note the steps of the easiest and of the hardest sample, and of the mean one."""
        steps = counts.steps  # type: ignore[attr-defined]
        self.least, self.most, self.mean = min(steps), max(steps), statistics.fmean(steps)


def seconds(method: str, solver: OneStepSolver, field: nn.Module, start: tuple[Tensor, Tensor]) -> float:
    """Return the processor seconds of one gradient."""
    ts = torch.tensor([0.0, END])
    began = time.process_time()
    ys, _ = build_gradient(method)(field, solver, start, ts)
    ys[-1].square().mean().backward()
    return time.process_time() - began


def measure(
    name: str, field: nn.Module, y0: Tensor, method: str, rounds: int, spreads: tuple[float, ...] = SPREADS
) -> None:
    """Print a line for each spread of the rates."""
    solvers = [make_solver("dopri5", rtol=1e-3, atol=1e-4, batch=batch) for batch in ("joint", "per_sample")]
    for spread in spreads:
        for shape, rates in (
            ("one in eight", torch.where(torch.arange(BATCH) % 8 == 0, spread, 1.0)),
            ("even", torch.logspace(0, torch.log10(torch.tensor(spread)).item(), BATCH)),
        ):
            start = y0, rates[:, None]
            joint, own = _Log(), _Log()
            for solver, log in zip(solvers, (joint, own), strict=True):
                seconds(method, solver.observed_by(log), field, start)
            found = [[seconds(method, solver, field, start) for solver in solvers] for _ in range(rounds)]
            ratio = statistics.median(b / a for a, b in found)
            shared = statistics.median(a for a, _ in found)
            print(
                f"{name}, {method}, spread {spread:g} {shape}: {ratio:.2f} of {shared:.3f} s; joint {len(joint.ends)} "
                f"steps, own {own.least:g} to {own.most:g}, {own.mean:.1f} in the mean",
                flush=True,
            )


def main() -> None:
    """Time both fields."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    only = SPREADS[-1:]
    measure("12 x 12 images", ImageField(), torch.randn(BATCH, 64, 12, 12), "aca", rounds, only)
    images = torch.randn(BATCH, 64, 6, 6)
    for method in ("aca", "naive", "adjoint", "interpolation"):
        measure("6 x 6 images", ImageField(), images, method, rounds, SPREADS if method == "aca" else only)
    measure("small net", SmallNet(), torch.randn(BATCH, 20), "aca", rounds)


if __name__ == "__main__":
    main()
