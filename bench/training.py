"""The training loop of every run: iterations on the clock, evaluations off it."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from odegrad.contracts import (
    CurvatureConsumer,
    GradientMethod,
    Problem,
    Solve,
    Tap,
    Tappable,
)
from odegrad.errors import NonFiniteError, UnsupportedError
from odegrad.meters import Clock

Progress = Callable[[Mapping[str, Any]], None]
"""Told of the state of a pass: ``{"pass": "train", "iteration": 12, "of": 80, "loss": 0.31}``."""

PROGRESS_SECONDS = 0.1
"""Least time between two reports of progress."""


@dataclass
class Trace:
    """What a training run went through."""

    losses: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    metrics: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def solve_with(method: GradientMethod, solver: Any) -> Solve:
    """Return the method bound to its solver."""

    def solve(field: Any, y0: Any, ts: Tensor) -> Any:
        return method(field, solver, y0, ts)

    return solve


def tapped(method: GradientMethod, tap: Tap | None) -> GradientMethod:
    """Return ``method`` with ``tap`` watching, or as it is if there is none.

    Raises
    ------
    UnsupportedError
        If the method offers no taps.
    """
    if tap is None:
        return method
    if not isinstance(method, Tappable):
        raise UnsupportedError(
            f"gradient method {method.traits.name} offers no curvature samples, which this optimizer needs; "
            "use adjoint or interpolation with it, or a first-order optimizer"
        )
    return method.with_tap(tap)


def next_tap(optimizer: torch.optim.Optimizer) -> Tap | None:
    """Return the tap that the optimizer wants for the coming iteration, if any."""
    return optimizer.next_tap() if isinstance(optimizer, CurvatureConsumer) else None


def evaluation_points(iterations: int, count: int = 8) -> Iterator[int]:
    """Yield about ``count`` iterations to evaluate at, evenly apart, the start and the end among them."""
    yield from sorted({round(i * iterations / count) for i in range(count + 1)})


def scheduled(optimizer: torch.optim.Optimizer, schedule: Mapping[int, float]) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the scheduler, stepped once an iteration, that multiplies the initial learning rates as ``schedule`` says.

    Parameters
    ----------
    optimizer
        Its learning rates are moved.
    schedule
        Iteration -> factor on every initial rate from there on; before the first one the factor is 1.
    """

    def factor(iteration: int) -> float:
        passed = [start for start in schedule if start <= iteration]
        return schedule[max(passed)] if passed else 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train(
    problem: Problem,
    method: GradientMethod,
    solver: Any,
    optimizer: torch.optim.Optimizer,
    iterations: int,
    progress: Progress,
) -> Trace:
    """Train for ``iterations`` and return the trace; its seconds leave evaluations out.

    Raises
    ------
    NonFiniteError
        If the loss is not finite; the message names the iteration.
    UnsupportedError
        If the optimizer needs curvature samples and the method offers none.
    """
    device = next(problem.model.parameters()).device
    schedule = problem.training.schedule
    rates = scheduled(optimizer, schedule) if schedule else None
    trace, clock, wanted = Trace(), Clock(device), set(evaluation_points(iterations))
    reported = 0.0
    for i in range(iterations + 1):
        if i in wanted:
            trace.iterations.append(i)
            trace.metrics.append(problem.evaluate(solve_with(method, solver)))
            trace.seconds.append(clock.seconds)
        if i == iterations:
            break
        with clock:
            loss = _iteration(problem, method, solver, optimizer, i)
        if rates is not None:
            rates.step()
        trace.losses.append(loss)
        if time.perf_counter() - reported >= PROGRESS_SECONDS:
            progress({"pass": "train", "iteration": i + 1, "of": iterations, "loss": loss})
            reported = time.perf_counter()
    return trace


def _iteration(
    problem: Problem, method: GradientMethod, solver: Any, optimizer: torch.optim.Optimizer, i: int
) -> float:
    tap = next_tap(optimizer)
    optimizer.zero_grad(set_to_none=True)
    loss = problem.loss(solve_with(tapped(method, tap), solver), problem.batch(i))
    value = loss.item()
    if not math.isfinite(value):
        raise NonFiniteError(
            f"loss: {value} at iteration {i}; the training diverged: lower the learning rate, tighten the tolerances "
            "or use an exact gradient method"
        )
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value
