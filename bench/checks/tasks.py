"""Checks of how a task is solved and trained: its dynamics, gradients everywhere, a loss that falls, an evaluation."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from typing import get_args

import torch
from torch import Tensor

from odegrad.binding import BoundSolve, solve_with
from odegrad.checks.result import CheckResult, at_most
from odegrad.checks.task_builds import (
    SOLVE_TOLERANCE,
    TaskCheck,
    batches,
    built,
    global_randomness,
    method_and_solver,
    precisions,
    seeds,
    solving,
    statement,
    tensors,
    unequal,
    unknown_size,
)
from odegrad.contracts import Ending, HeldOutLoss, Solve, Solver, Split, StateT, Task, VectorField
from odegrad.errors import InaccurateGradientWarning
from odegrad.event import Event
from odegrad.reference.reference import reference
from odegrad.reference.sensitivity import sensitivity_error
from odegrad.reference.subject import of_problem
from odegrad.registry import build_gradient, build_optimizer, build_solver

MIN_ITERATIONS, MAX_ITERATIONS = 15, 50
"""Training iterations, a tenth of the task's own, after which the loss must have fallen."""
MIN_FALL = 0.1
"""Part of the first loss by which it must have fallen; half a nat will do too."""
MAX_SENSITIVITY_ERROR = 0.5
"""Naive is not trained with where halving every step changes its gradient by more than this share."""
SPLITS: tuple[Split, ...] = get_args(Split)


STIFF_TOLERANCE = 1e-4
"""Of implicit steps, in float32 too."""


@dataclasses.dataclass(frozen=True)
class _Watched(BoundSolve):
    """A solve that tells of every solution whether its parts carry a graph."""

    attached: list[bool] = dataclasses.field(default_factory=list)

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        ys = super().solved(field, solver, y0, ts)
        self.attached.extend(x.requires_grad for x in tensors(ys))
        return ys

    def until(
        self, field: VectorField, y0: StateT, t0: Tensor, event: Event, /, *, reverse: bool = False
    ) -> Ending[StateT]:
        end = super().until(field, y0, t0, event, reverse=reverse)
        self.attached.extend(x.requires_grad for x in tensors((end.time, end.states)))
        return end


def dynamics(task: Task) -> Iterator[CheckResult]:
    """T5: the probe batch is small, and the dynamics are the model's own: one field, detached states, one type."""
    problem = built(task)
    probe = problem.probe_batch()
    field, state, ts = problem.dynamics(probe)
    yield at_most("T5 probe batch", max(len(x) for x in tensors(state)), 16, "samples")
    own = {id(p) for p in problem.model.parameters()}
    foreign = sum(id(p) not in own for p in field.parameters())
    yield at_most("T5 dynamics", foreign, 0, "parameters of the field that are none of the model's")
    modules = set(problem.model.modules())
    yield at_most(
        "T5 fields",
        sum(f not in modules for f in problem.fields),
        0,
        "entries of fields that are no submodule of model",
    )
    attached = sum(x.requires_grad for x in tensors(state))
    yield at_most(
        "T5 dynamics", attached, 0, "parts of the initial state that carry a graph: compute it under torch.no_grad()"
    )
    velocity = tensors(field(ts.flatten()[0], state))
    wrong = [tuple(v.shape) for v, x in zip(velocity, tensors(state), strict=False) if v.shape != x.shape]
    wrong += [tuple(x.shape) for x in tensors(state)[len(velocity) :]]
    yield at_most(
        "T5 dynamics", len(wrong), 0, f"parts of the derivative not shaped like the state {wrong or ''}".strip()
    )
    types = {x.dtype for x in (*velocity, *tensors(state), ts)}
    yield at_most("T5 dynamics", len(types - {torch.float32}), 0, "types other than float32 in a float32 build")


def gradients(task: Task) -> Iterator[CheckResult]:
    """T6: every parameter gets a gradient, and two independent ways of it agree.

    A method that solves backwards sees only what the field says of itself: a field that keeps something of the graph
    to itself gives itself away.
    """
    problem = built(task, dtype=torch.float64)
    true = reference(of_problem(problem, smooth=task.info.smooth))
    trained = {n: p for n, p in problem.model.named_parameters() if p.requires_grad}
    gradient = torch.zeros(sum(p.numel() for p in trained.values())) if true.gradient is None else true.gradient
    parts = torch.split(gradient, [p.numel() for p in trained.values()])
    idle = [n for n, part in zip(trained, parts, strict=True) if not bool(part.any())]
    yield at_most("T6 gradient", len(idle), 0, f"parameters without one: {', '.join(idle) or 'none'}")
    known = math.inf if true.error is None else true.error
    detail = f"adjoint against replay in float64, relative; {true.reason}".removesuffix("; ")
    yield at_most("T6 gradient", known, 1e-4 if task.info.smooth else 1e-2, detail)


def _trusted(task: Task) -> str:
    """Return a method whose gradient is right at first: naive backprop, or adjoint where a resting state fools it."""
    subject = of_problem(built(task, dtype=torch.float64), smooth=task.info.smooth)
    solver = build_solver("dopri5", SOLVE_TOLERANCE, SOLVE_TOLERANCE)
    return "naive" if sensitivity_error(subject, solver) <= MAX_SENSITIVITY_ERROR else "adjoint"


def learning(task: Task) -> Iterator[CheckResult]:
    """T7: within a few iterations of the default optimizer the loss falls and the metric improves."""
    problem, solve = built(task), solving(_trusted(task))
    of_task = task.training(task.info.sizes[0]).iterations
    iterations = min(max(MIN_ITERATIONS, of_task // 10), MAX_ITERATIONS)
    start = problem.evaluate(solve)
    optimizer = build_optimizer(problem.training.default_optimizer, problem)
    losses = []
    for iteration in range(iterations):
        optimizer.zero_grad(set_to_none=True)
        loss = problem.loss(solve, problem.batch(iteration))
        # The task is checked, and whether its loss falls is what a gradient that is off is judged by.
        with warnings.catch_warnings(action="ignore", category=InaccurateGradientWarning):
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    end = sum(losses[-3:]) / 3
    fallen = max(losses[0] - end, 0.0)
    threshold = min(0.5, MIN_FALL * abs(losses[0]))
    detail = f"loss {losses[0]:.3g}, and {end:.3g} after {iterations} of {of_task} iterations"
    yield CheckResult("T7 loss falls", fallen > threshold, fallen, threshold, detail)
    metric = problem.evaluate(solve)
    improved = metric > start if task.info.higher_is_better else metric < start
    better = "higher" if task.info.higher_is_better else "lower"
    detail = f"{task.info.metric_name} {start:.3g}, and {metric:.3g} after; info says {better} is better"
    yield CheckResult("T7 metric improves", improved, metric, start, detail)


def evaluation(task: Task) -> Iterator[CheckResult]:
    """T8: evaluation on either split, and the held-out loss if told, repeats and leaves everything as it was."""
    problem = built(task)
    before = [x.detach().clone() for x in problem.model.state_dict().values()]
    attached: list[bool] = []

    watched = _Watched(*method_and_solver(), attached=attached)

    told: list[Callable[[Solve, Split], float]] = [problem.evaluate]
    if isinstance(problem, HeldOutLoss):
        told.append(problem.held_out_loss)
    first, again = ([tell(watched, split) for tell in told for split in SPLITS] for _ in range(2))
    unlike = sum(a != b for a, b in zip(first, again, strict=True))
    yield at_most("T8 evaluation", unlike, 0, "metrics and held-out losses that differ when asked again")
    yield at_most("T8 evaluation", sum(not isinstance(x, float) for x in first), 0, "of them that are no float")
    yield at_most("T8 evaluation", sum(attached), 0, "solutions that carry a graph")
    given = sum(p.grad is not None for p in problem.model.parameters())
    yield at_most("T8 evaluation", given, 0, "parameters that have a gradient afterwards")
    moved = unequal(before, list(problem.model.state_dict().values()))
    yield at_most("T8 evaluation", moved, 0, "parameters and buffers that it changes")


def every_size(task: Task) -> Iterator[CheckResult]:
    """T9: every size builds, and its loss on the probe batch is a finite scalar."""
    # Explicit steps may be bound by stability there to millions of them.
    stiff = build_solver("kencarp4", STIFF_TOLERANCE, STIFF_TOLERANCE)
    solve = solve_with(build_gradient("naive"), stiff) if task.info.kind == "stiff" else solving()
    for size in task.info.sizes:
        problem = built(task, size=size)
        loss = problem.loss(solve, problem.probe_batch()).detach()
        wrong = int(loss.shape != () or not bool(loss.isfinite()))
        yield at_most("T9 sizes", wrong, 0, f"{size}: loss {loss.tolist()} on the probe batch")


TASK_CHECKS: tuple[TaskCheck, ...] = (
    statement, unknown_size, seeds, global_randomness, precisions, batches, dynamics, gradients, learning, evaluation,
    every_size,
)  # fmt: skip
"""Every check of a task."""
