"""Checks of calls and shapes.

Counts (G8), landing and range (G11), outputs and states (G13), second derivatives (G14), determinism (G16).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from odegrad.checks.choice import at_tolerance, fixed_solver, naive_gradient
from odegrad.checks.problems import CLOSED_FORMS, Recorded, SmoothNet, StepLog, gradient, relative
from odegrad.checks.result import CheckResult, at_most
from odegrad.contracts import GradientMethod, PredictsCalls
from odegrad.errors import OdegradError
from odegrad.methods.solvers.solver import OneStepSolver


def _problem(batch: int = 5) -> tuple[SmoothNet, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return SmoothNet(d=4, hidden=12, seed=6, scale=1.2), torch.randn(batch, 4, generator=generator, dtype=torch.float64)


def counts(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G8: measured f calls equal the method's prediction from the steps, adaptive and fixed, forward and backward."""
    if not isinstance(method, PredictsCalls):
        return
    field, y0 = _problem()
    ts = torch.tensor([0.0, 0.35, 1.2], dtype=torch.float64)
    for each in (at_tolerance(solver, 1e-7), fixed_solver(method, solver, 7)):
        if method.refuses(each) is not None:
            continue
        recorded, log = Recorded(field), StepLog()
        loss = (method(recorded, each.observed_by(log), y0, ts)[1:] ** 2).sum()
        forward, works = (len(log.ends), log.rejections, len(recorded.times)), tuple(log.works)
        loss.backward()  # type: ignore[no-untyped-call]
        backward = (len(log.ends) - forward[0], log.rejections - forward[1], len(recorded.times) - forward[2])
        steps = each.counted(2, forward[:2], backward[:2], works)
        predicted = method.predicted_calls(steps)
        wrong = abs(predicted.forward - forward[2]) + abs(predicted.backward - backward[2])
        detail = (
            f"{each.name}: f calls {forward[2]} + {backward[2]}, predicted {predicted.forward} + {predicted.backward}"
        )
        yield at_most("G8 counts", wrong, 0, detail)


def landing_and_range(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G11: every output is the end of a step, and f is never called outside the interval, in either direction."""
    field, y0 = _problem()
    for times in ((0.1, 0.5, 0.9), (0.9, 0.5, 0.1)):
        recorded, log = Recorded(field), StepLog()
        ts = torch.tensor(times, dtype=torch.float64)
        ys = method(recorded, solver.with_tolerances(1e-3, 1e-3).observed_by(log), y0, ts)
        missed = sum(min(abs(t - end) for end in log.ends) > 1e-12 for t in times[1:])
        (ys**2).sum().backward()  # type: ignore[no-untyped-call]
        outside = sum(not min(times) <= t <= max(times) for t in recorded.times)
        detail = f"from {times[0]} to {times[-1]}: {outside} f calls outside, {missed} outputs that end no step"
        yield at_most("G11 landing", outside + missed, 0, detail)


class _TwoParts(nn.Module):
    """A field on a tuple of states of different shapes that drive each other."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, _ = _problem()

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z, s = y
        return self.inner(t, z) * torch.cos(s)[:, None], z.pow(2).sum(1) - s


class _Image(nn.Module):
    """A convolution on a state ``[batch, 2, 3, 3]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1).double()
        generator = torch.Generator().manual_seed(8)
        for p in self.conv.parameters():
            p.data = 0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.conv(y)) * (1 + t)


def outputs_and_states(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G13: 1, 2 and 7 outputs, interior cotangents, decreasing time, t0 != 0, tuple and N-d states, batch 1."""
    field, y0 = _problem()
    _, one = _problem(batch=1)
    generator = torch.Generator().manual_seed(9)
    image = torch.randn(2, 2, 3, 3, generator=generator, dtype=torch.float64)

    def every(ys: object) -> Tensor:
        parts = ys if isinstance(ys, tuple) else (ys,)
        return torch.stack([((p * (k + 1)) ** 2).mean() for k, p in enumerate(parts)]).sum()

    def interior(ys: Tensor) -> Tensor:
        return (ys[1] ** 3).sum()

    cases: list[tuple[str, nn.Module, Any, list[float], Callable[[Any], Tensor]]] = [
        ("1 output", field, y0, [0.0, 1.0], every),
        ("2 outputs", field, y0, [0.5, 0.7, 1.5], every),
        ("7 outputs", field, y0, [-1.0, -0.9, -0.5, 0.0, 0.2, 0.3, 0.6, 0.61], every),
        ("interior cotangent", field, y0, [0.0, 0.4, 1.0], interior),
        ("decreasing time", field, y0, [1.0, 0.4, -0.2], every),
        ("tuple state", _TwoParts(), (y0, y0[:, 0].clone()), [0.0, 0.5, 1.0], every),
        ("image state", _Image(), image, [0.0, 0.5, 1.0], every),
        ("batch 1", field, one, [0.0, 1.0], every),
    ]
    tight = at_tolerance(solver, 1e-9)
    same_grid = method.traits.exact and method.traits.shared_loop
    for name, each, start, times, loss in cases:
        ts = torch.tensor(times, dtype=torch.float64)
        found = gradient(method, each, tight, start, ts, loss)
        true = naive_gradient(method, each, tight, start, ts, loss)
        threshold = 1e-6 if not same_grid else 1e-9 if method.traits.state_from == "inverse" else 1e-12
        yield at_most("G13 states", relative(found, true), threshold, f"{name}, against naive at 1e-9")
    yield _refuses_repeated(method, solver, field, y0)


def _refuses_repeated(method: GradientMethod, solver: OneStepSolver, field: nn.Module, y0: Tensor) -> CheckResult:
    try:
        method(field, solver, y0, torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64))
    except (OdegradError, ValueError, AssertionError) as error:
        return CheckResult("G13 states", True, None, None, f"repeated times refused: {str(error).splitlines()[0][:80]}")
    return CheckResult("G13 states", False, None, None, "repeated times were taken without an error")


def second_derivative(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G14: a second derivative is right, or it raises; it is never silently disconnected."""
    problem = CLOSED_FORMS[2]
    field, y0 = problem.field(), problem.start().requires_grad_()
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    theta = next(field.parameters())

    def hessian_row(end: Tensor) -> Tensor:
        (g,) = torch.autograd.grad((end**2).sum(), y0, create_graph=True)
        found = torch.autograd.grad((g**2).sum(), (y0, theta), allow_unused=True)
        return torch.cat(
            [
                torch.zeros_like(x).reshape(-1) if f is None else f.reshape(-1)
                for x, f in zip((y0, theta), found, strict=True)
            ]
        )

    true = hessian_row(problem.solution(theta, y0, ts[0], ts[1]))
    try:
        found = hessian_row(method(field, at_tolerance(solver, 1e-9), y0, ts)[-1])
    except (RuntimeError, OdegradError) as error:
        passed = solver.implicit or not method.traits.double_backward
        detail = f"raises, as stated: {str(error).splitlines()[0][:80]}" if passed else f"raised: {error}"
        yield CheckResult("G14 second derivative", passed, None, None, detail)
        return
    yield at_most("G14 second derivative", relative(found, true), 1e-6, "logistic, closed form")


def determinism(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G16: two runs give the same bits and the same number of f calls."""
    seen = []
    for _ in range(2):
        field, y0 = _problem()
        recorded = Recorded(field)
        ts = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        g = gradient(method, recorded, solver.with_tolerances(1e-5, 1e-5), y0, ts, lambda ys: (ys**2).sum())
        seen.append((g, len(recorded.times)))
    different = int((seen[0][0] != seen[1][0]).sum()) + abs(seen[0][1] - seen[1][1])
    yield at_most("G16 determinism", different, 0, f"{seen[0][0].numel()} gradient entries, {seen[0][1]} f calls")


BEHAVIOUR_CHECKS = (counts, landing_and_range, outputs_and_states, second_derivative, determinism)
"""Every check of this page; each takes a method and an adaptive solver."""
