"""Checks of a task: everything from its seed, pure batches, gradients everywhere, a loss that falls.

``odegrad check my_task.py:MyTask`` and the tests of the built-in tasks run the same functions.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from odegrad.binding import solve_with
from odegrad.checks.problems import relative
from odegrad.checks.result import CheckResult, at_most
from odegrad.contracts import HeldOutLoss, Problem, Solve, Split, Task, TaskInfo
from odegrad.errors import DataError, InaccurateGradientWarning, UnknownNameError
from odegrad.reference.reference import reference
from odegrad.reference.sensitivity import sensitivity_error
from odegrad.reference.subject import of_problem
from odegrad.registry import build_gradient, build_optimizer, build_solver

ON_CPU = torch.device("cpu")
MIN_ITERATIONS, MAX_ITERATIONS = 15, 50
"""Training iterations, a tenth of the task's own, after which the loss must have fallen."""
MIN_FALL = 0.1
"""Part of the first loss by which it must have fallen; half a nat will do too."""
TASK_MEMBERS = ("info", "training", "build")
PROBLEM_MEMBERS = ("model", "fields", "training", "batch", "probe_batch", "loss", "evaluate", "dynamics")
SOLVE_TOLERANCE = 1e-3
MAX_SENSITIVITY_ERROR = 0.5
"""Naive is not trained with where halving every step changes its gradient by more than this share."""
SEED, OTHER_SEED = 0, 1
SPLITS: tuple[Split, ...] = get_args(Split)
TASK_KINDS: tuple[str, ...] = get_args(get_type_hints(TaskInfo)["kind"])

TaskCheck = Callable[[Task], Iterator[CheckResult]]


def tensors(thing: Any) -> list[Tensor]:
    """Return the tensors in ``thing``: a tensor, or a mapping, sequence or dataclass of such, however deep."""
    if isinstance(thing, Tensor):
        return [thing]
    if dataclasses.is_dataclass(thing):
        parts = [getattr(thing, f.name) for f in dataclasses.fields(thing)]
    elif isinstance(thing, Mapping):
        parts = list(thing.values())
    else:
        parts = list(thing) if isinstance(thing, list | tuple) else []
    return [x for part in parts for x in tensors(part)]


STIFF_TOLERANCE = 1e-4
"""Of implicit steps, in float32 too."""


def solving(name: str = "naive") -> Solve:
    """Return the gradient method ``name`` with dopri5."""
    return solve_with(build_gradient(name), build_solver("dopri5", SOLVE_TOLERANCE, SOLVE_TOLERANCE))


def _built(task: Task, seed: int = SEED, dtype: torch.dtype = torch.float32, size: str = "") -> Problem:
    return task.build(size or task.info.sizes[0], seed, ON_CPU, dtype)


def _everything(problem: Problem) -> list[Tensor]:
    """Return parameters, batches and the start of the dynamics."""
    probe = problem.probe_batch()
    _, state, ts = problem.dynamics(probe)
    return [*problem.model.parameters(), *tensors([problem.batch(0), problem.batch(17), probe, state]), ts]


def _unequal(first: list[Tensor], second: list[Tensor]) -> int:
    """Return how many of the tensors differ in a bit, shape or type."""
    apart = abs(len(first) - len(second))
    return apart + sum(a.dtype != b.dtype or not torch.equal(a, b) for a, b in zip(first, second, strict=False))


def missing_members(task: Task) -> list[str]:
    """Return what a task or its problem lacks, or holds of a wrong kind, so that no check could say anything.

    Raises
    ------
    DataError
        If the task's data are not there and cannot be fetched.
    """
    found = [f"{name} of the task" for name in TASK_MEMBERS if not hasattr(task, name)]
    if found:
        return found
    for name, kind in (("sizes", tuple), ("target", Mapping)):
        value = getattr(task.info, name)
        if not isinstance(value, kind):
            found.append(f"info.{name}: expected a {kind.__name__}, got {value!r}")
    if found or not task.info.sizes:
        return found or ["info.sizes: expected at least one size, got none"]
    try:
        problem = _built(task)
    except DataError:
        raise
    except Exception as error:  # whatever a user's task raises is the finding
        return [f"build: {type(error).__name__}: {error}"]
    return [f"{name} of what build returns" for name in PROBLEM_MEMBERS if not hasattr(problem, name)]


def statement(task: Task) -> Iterator[CheckResult]:
    """T1: the task says what it is, and its sizes, targets and trainings go together."""
    info = task.info
    wrong = [f"kind {info.kind!r} is none of {', '.join(TASK_KINDS)}"] if info.kind not in TASK_KINDS else []
    texts = ("name", "summary", "metric_name", "citation", "licence")
    wrong += [f"{name} is empty" for name in texts if not str(getattr(info, name)).strip()]
    wrong += [f"target for {size!r}, which is no size" for size in info.target if size not in info.sizes]
    for size in info.sizes:
        training = task.training(size)
        if training.default_optimizer not in training.optimizers:
            wrong.append(f"{size}: no settings of the default optimizer {training.default_optimizer!r}")
        if training.iterations < 1:
            wrong.append(f"{size}: {training.iterations} iterations")
    yield at_most("T1 statement", len(wrong), 0, "; ".join(wrong) or f"sizes {', '.join(info.sizes)}")


def unknown_size(task: Task) -> Iterator[CheckResult]:
    """T1: a size that the task does not have is an UnknownNameError, from ``training`` and ``build``."""
    calls: Mapping[str, Callable[[], Any]] = {
        "training": lambda: task.training("no such size"),
        "build": lambda: _built(task, size="no such size"),
    }
    for name, call in calls.items():
        try:
            call()
            got = "no error"
        except UnknownNameError:
            got = ""
        except Exception as error:  # whatever else a user's task raises is the finding
            got = type(error).__name__
        yield at_most(
            "T1 unknown size", float(bool(got)), 0, f"{name}: expected UnknownNameError{got and ', got '}{got}"
        )


def seeds(task: Task) -> Iterator[CheckResult]:
    """T2: two builds of a seed are equal bit for bit; another seed has other parameters and batches."""
    mine, again, other = _built(task), _built(task), _built(task, OTHER_SEED)
    yield at_most(
        "T2 seed", _unequal(_everything(mine), _everything(again)), 0, "tensors that differ in a second build"
    )
    pairs = zip(mine.model.parameters(), other.model.parameters(), strict=True)
    same = sum(torch.equal(a, b) for a, b in pairs if bool((a != a.flatten()[0]).any()))  # zeros are not drawn
    yield at_most("T2 other seed", same, 0, "parameters that another seed leaves as they were")
    states = zip(mine.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    alike = int(all(torch.equal(a, b) for a, b in states))
    yield at_most("T2 other seed", alike, 0, "whether another seed leaves the whole model as it was")
    same = int(_unequal(tensors(mine.batch(0)), tensors(other.batch(0))) == 0)
    yield at_most("T2 other seed", same, 0, "first batches that another seed leaves as they were")


def global_randomness(task: Task) -> Iterator[CheckResult]:
    """T2: the global random number generator is neither read nor moved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        before, first = torch.random.get_rng_state(), _everything(_built(task))
        moved = int(not torch.equal(torch.random.get_rng_state(), before))
        torch.manual_seed(1)
        read = _unequal(first, _everything(_built(task)))
    yield at_most("T2 global randomness", moved, 0, "whether a build moves the global generator")
    yield at_most("T2 global randomness", read, 0, "tensors that depend on the global generator")


def precisions(task: Task) -> Iterator[CheckResult]:
    """T3: the float32 and the float64 build are one model on one set of data, up to rounding."""
    single, double = _built(task), _built(task, dtype=torch.float64)
    rounded = [x.float() if x.is_floating_point() else x for x in _everything(double)[: -_state_parts(double)]]
    apart = _unequal(_everything(single)[: -_state_parts(single)], rounded)
    yield at_most("T3 precision", apart, 0, "tensors that are not the rounded float64 ones")
    losses = [p.loss(solving(), p.probe_batch()).detach().double() for p in (single, double)]
    yield at_most("T3 precision", float(relative(*losses)), 1e-3, "the loss in float32 against float64, relative")


def _state_parts(problem: Problem) -> int:
    """Return how many of the last tensors of ``_everything`` a model computed: they round differently."""
    return len(tensors(problem.dynamics(problem.probe_batch())[1])) + 1


def batches(task: Task) -> Iterator[CheckResult]:
    """T4: a batch is a function of its iteration alone, and batches differ."""
    problem = _built(task)
    first = tensors(problem.batch(12))
    problem.batch(3)
    yield at_most("T4 batch", _unequal(first, tensors(problem.batch(12))), 0, "tensors that differ when asked again")
    repeated = int(_unequal(first, tensors(problem.batch(13))) == 0)
    yield at_most("T4 batch", repeated, 0, "whether iterations 12 and 13 get the same batch")


def dynamics(task: Task) -> Iterator[CheckResult]:
    """T5: the probe batch is small, and the dynamics are the model's own: one field, detached states, one type."""
    problem = _built(task)
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
    problem = _built(task, dtype=torch.float64)
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
    subject = of_problem(_built(task, dtype=torch.float64), smooth=task.info.smooth)
    solver = build_solver("dopri5", SOLVE_TOLERANCE, SOLVE_TOLERANCE)
    return "naive" if sensitivity_error(subject, solver) <= MAX_SENSITIVITY_ERROR else "adjoint"


def learning(task: Task) -> Iterator[CheckResult]:
    """T7: within a few iterations of the default optimizer the loss falls and the metric improves."""
    problem, solve = _built(task), solving(_trusted(task))
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
    problem = _built(task)
    before = [x.detach().clone() for x in problem.model.state_dict().values()]
    attached: list[bool] = []

    def watched(field: Any, y0: Any, ts: Tensor) -> Any:
        ys = solving()(field, y0, ts)
        attached.extend(x.requires_grad for x in tensors(ys))
        return ys

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
    moved = _unequal(before, list(problem.model.state_dict().values()))
    yield at_most("T8 evaluation", moved, 0, "parameters and buffers that it changes")


def every_size(task: Task) -> Iterator[CheckResult]:
    """T9: every size builds, and its loss on the probe batch is a finite scalar."""
    # Explicit steps may be bound by stability there to millions of them.
    stiff = build_solver("kencarp4", STIFF_TOLERANCE, STIFF_TOLERANCE)
    solve = solve_with(build_gradient("naive"), stiff) if task.info.kind == "stiff" else solving()
    for size in task.info.sizes:
        problem = _built(task, size=size)
        loss = problem.loss(solve, problem.probe_batch()).detach()
        wrong = int(loss.shape != () or not bool(loss.isfinite()))
        yield at_most("T9 sizes", wrong, 0, f"{size}: loss {loss.tolist()} on the probe batch")


TASK_CHECKS: tuple[TaskCheck, ...] = (
    statement, unknown_size, seeds, global_randomness, precisions, batches, dynamics, gradients, learning, evaluation,
    every_size,
)  # fmt: skip
"""Every check of a task."""
