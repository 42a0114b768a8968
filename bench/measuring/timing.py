"""The time pass: forward, backward and update apart, with a bare field, at the initial parameters."""

import copy
import gc
import math
from dataclasses import dataclass, field
from time import perf_counter

import torch

from odegrad.binding import next_solve, solve_with
from odegrad.contracts import GradientMethod, Problem, Solve, Solver
from odegrad.measuring.meters import Clock
from odegrad.records.rounds import relative_interval
from odegrad.reference.subject import Subject, of_training
from odegrad.states import put_back

WARM_UPS = 2
MIN_REPEATS, MAX_REPEATS = 3, 200
RELATIVE_INTERVAL = 0.02
PASS_SECONDS = 0.4
"""Of one round; ``odegrad.records.rounds`` says how many a run has."""


@dataclass
class Timings:
    """Seconds of every repeat; ``warm_up`` holds whole iterations that do not count."""

    warm_up: list[float] = field(default_factory=list)
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)

    def relative_interval(self) -> float:
        """Return half the width of the median iteration's 95 % interval (order statistics), relative to the median.

        Infinite before ``MIN_REPEATS``.
        """
        total = [sum(parts) for parts in zip(self.forward, self.backward, self.update, strict=True)]
        return relative_interval(total) if len(total) >= MIN_REPEATS else math.inf

    def settled(self) -> bool:
        """Return whether the median iteration is known to ``RELATIVE_INTERVAL``."""
        return self.relative_interval() <= RELATIVE_INTERVAL


def forward_and_backward(subject: Subject, solve: Solve) -> tuple[float, float]:
    """Return the seconds of one forward and of one backward pass."""
    forward, backward = Clock(subject.device), Clock(subject.device)
    with forward:
        loss = subject.loss(solve)
    with backward:
        subject.pull_back(loss)
    return forward.seconds, backward.seconds


def time_iterations(
    problem: Problem, method: GradientMethod, solver: Solver, optimizer: torch.optim.Optimizer, budget: float
) -> Timings:
    """Return the timings of repeated training iterations on batch 0.

    Parameters and optimizer are put back after every update, so that every repeat times the same work. An optimizer
    that learns from curvature samples takes them in the first warm-up; the repeats time its ordinary iteration. Repeats
    end when the median is settled or ``budget`` seconds are spent, not before ``MIN_REPEATS``.
    """
    timings, batch, subject = Timings(), problem.batch(0), of_training(problem)
    parameters = [p.detach().clone() for p in problem.model.parameters()]
    buffers = [b.detach().clone() for b in problem.model.buffers()]
    state = None
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        started = perf_counter()
        while len(timings.forward) < MAX_REPEATS and not timings.settled():
            warm = len(timings.warm_up) < WARM_UPS
            if not warm and perf_counter() - started > budget and len(timings.forward) >= MIN_REPEATS:
                break
            solve: Solve = solve_with(method, solver)
            if state is None:
                solve = next_solve(optimizer, method, solver, batch)
            optimizer.zero_grad(set_to_none=True)
            forward, backward = forward_and_backward(subject, solve)
            update = Clock(subject.device)
            with update:
                optimizer.step()
            if warm:
                timings.warm_up.append(forward + backward + update.seconds)
            else:
                timings.forward.append(forward)
                timings.backward.append(backward)
                timings.update.append(update.seconds)
            state = copy.deepcopy(optimizer.state_dict()) if state is None else state
            _restore(problem, parameters, buffers)
            optimizer.load_state_dict(copy.deepcopy(state))
    finally:
        if was_enabled:
            gc.enable()
    return timings


def _restore(problem: Problem, parameters: list[torch.Tensor], buffers: list[torch.Tensor]) -> None:
    put_back(zip(problem.model.parameters(), parameters, strict=True))
    put_back(zip(problem.model.buffers(), buffers, strict=True))
