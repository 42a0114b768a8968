"""Time of one gradient as a ratio to torchdiffeq's, interleaved in one process, on four problems.

Run with ``pytest --benchmark-only tests/benchmarks``. Each case times pairs (theirs, ours, ours, theirs) and stores the
median ratio, its quartiles and both gradient errors in ``extra_info``: a time without its error says nothing.
"""

import itertools
import os
import statistics
import time

import pytest
import torch
from torch import nn

from odegrad.methods.gradients.naive import Naive
from odegrad.registry import build_gradient, build_solver

PAIRS: list[tuple[str, dict[str, object], str]] = [
    ("naive", {}, "torchdiffeq_naive"),
    ("anode", {}, "torchdiffeq_naive"),
    ("adjoint", {}, "torchdiffeq_adjoint"),
    ("interpolation", {}, "torchdiffeq_adjoint"),
]


class _ToyFlow(nn.Module):
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


class _TabularFlow(nn.Module):
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


class _ImageNet(nn.Module):
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


class _LatentNet(nn.Module):
    """P4: tanh net 20-50-50-20."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 50), nn.Tanh(), nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, 20))

    def forward(self, t, y):
        return self.net(y)


def _problem(name):
    """Return (field, y0, ts, rtol, atol, loss) in float32."""
    torch.manual_seed(0)

    def flow_loss(ys):
        return (0.5 * ys[0][-1].pow(2).sum(1) + ys[1][-1]).mean()

    unit = torch.tensor([0.0, 1.0])
    if name == "P1":
        return _ToyFlow(), (torch.randn(512, 2), torch.zeros(512)), unit, 1e-5, 1e-5, flow_loss
    if name == "P2":
        return _TabularFlow(torch.randn(256, 43)), (torch.randn(256, 43), torch.zeros(256)), unit, 1e-5, 1e-5, flow_loss
    if name == "P3":
        projection = torch.randn(128, 64, 6, 6) / 100
        return _ImageNet(), torch.randn(128, 64, 6, 6), unit, 1e-3, 1e-3, lambda ys: (ys[-1] * projection).sum()
    target = torch.randn(100, 50, 20)
    ts = torch.linspace(0.0, 4.0, 100)
    return _LatentNet(), torch.randn(50, 20), ts, 1e-5, 1e-6, lambda ys: (ys - target).pow(2).mean()


def _gradient(method, problem, dtype=torch.float32, solver=None):
    field, y0, ts, rtol, atol, loss = problem
    solver = solver or build_solver("dopri5", rtol, atol)
    value = loss(method(field, solver, y0, ts.to(dtype)))
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(field.parameters()))])


def _reference(problem):
    """Return the float64 gradient at a hundredth of the tolerance, by naive backprop with dopri5."""
    field, y0, ts, rtol, atol, loss = problem
    y64 = tuple(p.double() for p in y0) if isinstance(y0, tuple) else y0.double()
    solver = build_solver("dopri5", rtol / 100, atol / 100)
    out = _gradient(Naive(), (field.double(), y64, ts, rtol, atol, loss), torch.float64, solver)
    field.float()
    return out


@pytest.mark.parametrize("problem", ["P1", "P2", "P3", "P4"])
@pytest.mark.parametrize(("name", "options", "peer"), PAIRS, ids=lambda v: v if isinstance(v, str) else "")
def test_time_of_a_gradient_against_torchdiffeq(benchmark, problem, name, options, peer):
    """The ratio of medians, ours over theirs."""
    torch.set_num_threads(1)
    built = _problem(problem)
    ours, theirs = build_gradient(name, options), build_gradient(peer)
    reference = _reference(built)
    errors = {
        key: float((_gradient(m, built).double() - reference).norm() / reference.norm())
        for key, m in (("ours", ours), ("theirs", theirs))
    }

    def timed(method):
        start = time.perf_counter()
        _gradient(method, built)
        return time.perf_counter() - start

    ratios = []
    for _ in range(int(os.environ.get("ODEGRAD_BENCHMARK_PAIRS", "6"))):
        a, b, c, d = timed(theirs), timed(ours), timed(ours), timed(theirs)
        ratios.append((b + c) / (a + d))
    low, _, high = statistics.quantiles(ratios, n=4)
    benchmark.extra_info |= {"ratio": statistics.median(ratios), "ratio_quartiles": [low, high], "error": errors}
    print(f"\n{problem} {name}/{peer}: {statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}] errors {errors}")
    benchmark.pedantic(timed, args=(ours,), rounds=1, iterations=1)
