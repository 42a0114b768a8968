"""Checks of what a method leaves behind: taps (G9), buffers, random numbers, unused and hidden parameters (G12)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from odegrad.checks.choice import at_tolerance, for_mixed_samples
from odegrad.checks.problems import SmoothNet, gradient, relative
from odegrad.checks.result import CheckResult, at_most
from odegrad.contracts import GradientMethod, State, Tappable, VectorField, equivalent_solver
from odegrad.errors import OdegradError
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import OneStepSolver


def _start() -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(11), dtype=torch.float64)


OUTPUT_TIMES = (0.0, 0.3, 1.0)


class _Sampler:
    """A tap that integrates ``f_theta^T a`` by its samples: another way to the parameters' gradient."""

    def __init__(self) -> None:
        self.samples = 0
        self.total = torch.zeros(())
        self.length = 0.0

    def sample_times(self, t0: float, t1: float) -> list[float]:
        return [t0 + i * (t1 - t0) / 20 for i in range(21)]

    def observe(self, field: VectorField, t: float, y: State, a: State, weight: float) -> None:
        with torch.enable_grad():
            leaf = y.detach().requires_grad_() if isinstance(y, Tensor) else y[0].detach().requires_grad_()
            dy = field(torch.tensor(t, dtype=leaf.dtype), leaf)
        pulled = torch.autograd.grad(dy, tuple(field.parameters()), a if isinstance(a, Tensor) else a[0])
        self.total = self.total + weight * torch.cat([p.reshape(-1) for p in pulled])
        self.length += weight
        self.samples += 1


def taps_only_watch(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G9: with a tap the gradient is the one without, bit for bit; its samples integrate to the parameters' part.

    The samples' own rule is of the second order, and steps may be few.
    """
    if not isinstance(method, Tappable):
        return
    field, tap, ts = SmoothNet(d=4, hidden=12), _Sampler(), torch.tensor(OUTPUT_TIMES, dtype=torch.float64)
    tight = at_tolerance(solver, 1e-6)

    def loss(ys: Tensor) -> Tensor:
        return (ys[1:] ** 2).sum()

    plain = gradient(method, field, tight, _start(), ts, loss)
    watched = gradient(method.with_tap(tap), field, tight, _start(), ts, loss)
    changed = int((watched != plain).sum()) if tap.samples else plain.numel()
    yield at_most("G9 tap", changed, 0, f"numbers of the gradient changed by {tap.samples} samples")
    yield at_most(
        "G9 tap", abs(tap.length - (OUTPUT_TIMES[-1] - OUTPUT_TIMES[0])), 1e-12, "sum of the weights, less the interval"
    )
    of_parameters = plain[_start().numel() :]
    yield at_most("G9 tap", relative(tap.total, of_parameters), 3e-2, "integral of f_theta^T a over the samples")


class _Regularised(nn.Module):
    """A net with batch statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SmoothNet(d=4, hidden=12, scale=0.5)
        self.norm = nn.BatchNorm1d(4).double()
        self.dropout = nn.Dropout(0.3)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.inner(t, self.norm(y)))
        return out


def side_effects(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G12: after forward and backward, running statistics and random numbers stand where naive's do."""
    if not method.traits.shared_loop:
        return
    loose = for_mixed_samples(at_tolerance(solver, 1e-4))
    seen = []
    for each, used in ((method, loose), (Naive(), equivalent_solver(method, loose))):
        field, y0 = _Regularised(), _start().requires_grad_()
        torch.manual_seed(3)
        ys: Any = each(field, used, y0, torch.tensor(OUTPUT_TIMES, dtype=torch.float64))
        torch.autograd.backward((ys**2).sum())
        buffers = torch.cat([b.double().reshape(-1) for b in field.buffers()])
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in (y0, *field.parameters())]
        seen.append((buffers, torch.get_rng_state(), torch.cat([g.reshape(-1) for g in grads])))
    (buffers, state, found), (true_buffers, true_state, true) = seen
    yield at_most("G12 side effects", relative(buffers, true_buffers), 1e-12, "BatchNorm's running statistics, naive's")
    moved = int((state != true_state).sum())
    yield at_most("G12 side effects", moved, 0, "state of the random number generator, naive's")
    if method.traits.exact:
        yield at_most("G12 side effects", relative(found, true), 1e-8, "gradient through dropout and batch statistics")


class _Partly(nn.Module):
    """A net with a frozen parameter, one that nothing depends on, and a trained tensor out of sight."""

    def __init__(self, hidden: Tensor | None) -> None:
        super().__init__()
        self.inner = SmoothNet(d=4, hidden=12)
        self.inner.biases[0].requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
        self.out_of_sight = (hidden,)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        dy: Tensor = self.inner(t, y)
        return dy if self.out_of_sight[0] is None else dy + self.out_of_sight[0]


def parameters_of_every_kind(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G12: an unused parameter gets zeros (or nothing), a frozen one nothing, a hidden one its gradient or an error."""
    tight, ts = at_tolerance(solver, 1e-6), torch.tensor(OUTPUT_TIMES, dtype=torch.float64)
    field = _Partly(None)
    (method(field, tight, _start(), ts) ** 2).sum().backward()  # type: ignore[no-untyped-call]
    unused, frozen = field.unused.grad, field.inner.biases[0].grad
    right = unused is None or (unused.shape == field.unused.shape and not bool(unused.any()))
    yield CheckResult("G12 parameters", right, None, None, "an unused parameter: zeros of its own shape, or None")
    yield CheckResult("G12 parameters", frozen is None, None, None, "a frozen parameter: no gradient")
    hidden = torch.full((4,), 0.1, dtype=torch.float64, requires_grad=True)
    field = _Partly(hidden)
    try:
        (found,) = torch.autograd.grad((method(field, tight, _start(), ts) ** 2).sum(), hidden)
    except (OdegradError, RuntimeError) as error:
        told = "closure" in str(error)
        yield CheckResult("G12 parameters", told, None, None, f"a hidden one raises: {str(error).splitlines()[0][:80]}")
        return
    naive: Any = Naive()(field, equivalent_solver(method, tight), _start(), ts)
    (true,) = torch.autograd.grad((naive**2).sum(), hidden)
    yield at_most("G12 parameters", relative(found, true), 1e-4, "a hidden one: its gradient, as naive's")


EFFECT_CHECKS = (taps_only_watch, side_effects, parameters_of_every_kind)
"""Every check of this page; each takes a method and an adaptive solver."""
