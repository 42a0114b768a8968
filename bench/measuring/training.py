"""The training loop of every run: iterations on the clock, evaluations off it."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from odegrad.binding import next_solve, solve_with
from odegrad.contracts import (
    CurvatureConsumer,
    GradientMethod,
    HeldOutLoss,
    Problem,
    Solver,
    Split,
    TrainableEndTime,
)
from odegrad.errors import NonFiniteError, UnsupportedError
from odegrad.measuring.meters import Clock
from odegrad.methods.regularisers.regularised import RegularisedSolve
from odegrad.records.record import EVALUATIONS

Progress = Callable[[Mapping[str, object]], None]
"""Told of the state of a pass: ``{"pass": "train", "iteration": 12, "of": 80, "loss": 0.31}``."""

PROGRESS_SECONDS = 0.1
"""Least time between two reports of progress."""


@dataclass
class Trace:
    """What a training run went through."""

    losses: list[float] = field(default_factory=list)
    penalties: list[float] = field(default_factory=list)
    """The weighted penalties of every iteration, where there are regularisers; no part of the losses."""
    iterations: list[int] = field(default_factory=list)
    metrics: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    """The loss on the validation split at ``iterations``, where asked for and the problem tells it."""
    seconds: list[float] = field(default_factory=list)
    end_times: list[float] = field(default_factory=list)
    """The end time of every iteration, where it is trained."""


def trained_end_time(problem: Problem) -> Tensor | None:
    """Return the problem's end time if it is trained: if the optimizer made it require a gradient."""
    if isinstance(problem, TrainableEndTime) and problem.end_time.requires_grad:
        return problem.end_time
    return None


def evaluation_points(iterations: int, count: int = EVALUATIONS) -> Iterator[int]:
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
    solver: Solver,
    optimizer: torch.optim.Optimizer,
    iterations: int,
    progress: Progress,
    at_point: Callable[[int], None] | None = None,
    evaluations: int = EVALUATIONS,
    split: Split = "test",
    regularised: RegularisedSolve | None = None,
) -> Trace:
    """Train for ``iterations`` and return the trace; its seconds leave evaluations out, and ``at_point``.

    ``at_point`` is called with the iteration wherever the metric has been evaluated: on ``split``, at the start and
    ``evaluations`` times after it. The loss on the validation split is taken there too where ``evaluations`` is more
    than the default: whoever wants a fine trace wants the time to a target.

    ``regularised`` is solved with in every iteration, and its penalty is pulled back with the loss; evaluations are
    without.

    Raises
    ------
    NonFiniteError
        If a loss or the metric is not finite; the message names it and the iteration.
    UnsupportedError
        If the optimizer needs curvature samples and the method offers none, or there are regularisers too.
    """
    if regularised is not None and isinstance(optimizer, CurvatureConsumer):
        raise UnsupportedError(
            "regularisers: this optimizer learns the curvature of the loss alone; use a first-order optimizer with them"
        )
    device = next(problem.model.parameters()).device
    schedule = problem.training.schedule
    rates = scheduled(optimizer, schedule) if schedule else None
    trace, clock, wanted = Trace(), Clock(device), set(evaluation_points(iterations, evaluations))
    told = problem if isinstance(problem, HeldOutLoss) and evaluations > EVALUATIONS else None
    end_time, reported = trained_end_time(problem), 0.0
    for i in range(iterations + 1):
        if i in wanted:
            trace.iterations.append(i)
            trace.metrics.append(_finite(problem.evaluate(solve_with(method, solver), split), "metric", i))
            if told is not None:
                held_out = told.held_out_loss(solve_with(method, solver), "validation")
                trace.validation_losses.append(_finite(held_out, "validation loss", i))
            trace.seconds.append(clock.seconds)
            if at_point is not None:
                at_point(i)
        if i == iterations:
            break
        if end_time is not None:
            trace.end_times.append(end_time.item())
        with clock:
            loss, penalty = _iteration(problem, method, solver, optimizer, i, regularised)
        if rates is not None:
            rates.step()
        trace.losses.append(loss)
        if penalty is not None:
            trace.penalties.append(penalty)
        if perf_counter() - reported >= PROGRESS_SECONDS:
            progress({"pass": "train", "iteration": i + 1, "of": iterations, "loss": loss})
            reported = perf_counter()
    return trace


def _iteration(
    problem: Problem,
    method: GradientMethod,
    solver: Solver,
    optimizer: torch.optim.Optimizer,
    i: int,
    regularised: RegularisedSolve | None,
) -> tuple[float, float | None]:
    optimizer.zero_grad(set_to_none=True)
    batch = problem.batch(i)
    solve = regularised or next_solve(optimizer, method, solver, batch)
    loss = problem.loss(solve, batch)
    penalty = None
    if regularised is None:
        value = loss.item()
    else:
        added = torch.as_tensor(regularised.penalty())
        value, penalty = torch.stack([loss.detach(), added.detach().to(loss)]).tolist()
        loss = loss + added
    if not math.isfinite(value + (penalty or 0.0)):
        told = f"loss: {value}" if penalty is None else f"loss: {value}, penalty: {penalty},"
        raise NonFiniteError(
            f"{told} at iteration {i}; the training diverged: lower the learning rate, tighten the tolerances "
            "or use an exact gradient method"
        )
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value, penalty


def _finite(value: float, what: str, iteration: int) -> float:
    """Return ``value``; one that is not finite ends the training."""
    if not math.isfinite(value):
        raise NonFiniteError(
            f"{what}: {value} at iteration {iteration}; the training diverged: lower the learning rate, tighten the "
            "tolerances or use an exact gradient method"
        )
    return value
