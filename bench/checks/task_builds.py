"""Checks of what a task builds: it says what it is, and everything comes from its seed; pure batches.

``odegrad check my_task.py:MyTask`` and the tests of the built-in tasks run the same functions.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import get_args, get_type_hints

import torch
from torch import Tensor

from odegrad.binding import solve_with
from odegrad.checks.problems import relative
from odegrad.checks.result import CheckResult, at_most
from odegrad.contracts import GradientMethod, Problem, Solve, Solver, Task, TaskInfo
from odegrad.errors import DataError, UnknownNameError
from odegrad.registry import build_gradient, build_solver

TaskCheck = Callable[[Task], Iterator[CheckResult]]

ON_CPU = torch.device("cpu")

SEED, OTHER_SEED = 0, 1

SOLVE_TOLERANCE = 1e-3

TASK_MEMBERS = ("info", "training", "build")

PROBLEM_MEMBERS = ("model", "fields", "training", "batch", "probe_batch", "loss", "evaluate", "dynamics")

TASK_KINDS: tuple[str, ...] = get_args(get_type_hints(TaskInfo)["kind"])


def tensors(thing: object) -> list[Tensor]:
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


def solving(name: str = "naive") -> Solve:
    """Return the gradient method ``name`` with dopri5."""
    return solve_with(*method_and_solver(name))


def method_and_solver(name: str = "naive") -> tuple[GradientMethod, Solver]:
    """Return the gradient method ``name`` and dopri5."""
    return build_gradient(name), build_solver("dopri5", SOLVE_TOLERANCE, SOLVE_TOLERANCE)


def built(task: Task, seed: int = SEED, dtype: torch.dtype = torch.float32, size: str = "") -> Problem:
    """Return the problem of ``seed``, of the first size if none is named."""
    return task.build(size or task.info.sizes[0], seed, ON_CPU, dtype)


def everything(problem: Problem) -> list[Tensor]:
    """Return parameters, batches and the start of the dynamics."""
    probe = problem.probe_batch()
    _, state, ts = problem.dynamics(probe)
    return [*problem.model.parameters(), *tensors([problem.batch(0), problem.batch(17), probe, state]), ts]


def unequal(first: list[Tensor], second: list[Tensor]) -> int:
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
        problem = built(task)
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
    calls: Mapping[str, Callable[[], object]] = {
        "training": lambda: task.training("no such size"),
        "build": lambda: built(task, size="no such size"),
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
    mine, again, other = built(task), built(task), built(task, OTHER_SEED)
    yield at_most("T2 seed", unequal(everything(mine), everything(again)), 0, "tensors that differ in a second build")
    pairs = zip(mine.model.parameters(), other.model.parameters(), strict=True)
    same = sum(torch.equal(a, b) for a, b in pairs if bool((a != a.flatten()[0]).any()))  # zeros are not drawn
    yield at_most("T2 other seed", same, 0, "parameters that another seed leaves as they were")
    states = zip(mine.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    alike = int(all(torch.equal(a, b) for a, b in states))
    yield at_most("T2 other seed", alike, 0, "whether another seed leaves the whole model as it was")
    same = int(unequal(tensors(mine.batch(0)), tensors(other.batch(0))) == 0)
    yield at_most("T2 other seed", same, 0, "first batches that another seed leaves as they were")


def global_randomness(task: Task) -> Iterator[CheckResult]:
    """T2: the global random number generator is neither read nor moved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        before, first = torch.random.get_rng_state(), everything(built(task))
        moved = int(not torch.equal(torch.random.get_rng_state(), before))
        torch.manual_seed(1)
        read = unequal(first, everything(built(task)))
    yield at_most("T2 global randomness", moved, 0, "whether a build moves the global generator")
    yield at_most("T2 global randomness", read, 0, "tensors that depend on the global generator")


def precisions(task: Task) -> Iterator[CheckResult]:
    """T3: the float32 and the float64 build are one model on one set of data, up to rounding."""
    single, double = built(task), built(task, dtype=torch.float64)
    rounded = [x.float() if x.is_floating_point() else x for x in everything(double)[: -_state_parts(double)]]
    apart = unequal(everything(single)[: -_state_parts(single)], rounded)
    yield at_most("T3 precision", apart, 0, "tensors that are not the rounded float64 ones")
    losses = [p.loss(solving(), p.probe_batch()).detach().double() for p in (single, double)]
    yield at_most("T3 precision", float(relative(*losses)), 1e-3, "the loss in float32 against float64, relative")


def _state_parts(problem: Problem) -> int:
    """Return how many of the last tensors of ``everything`` a model computed: they round differently."""
    return len(tensors(problem.dynamics(problem.probe_batch())[1])) + 1


def batches(task: Task) -> Iterator[CheckResult]:
    """T4: a batch is a function of its iteration alone, and batches differ."""
    problem = built(task)
    first = tensors(problem.batch(12))
    problem.batch(3)
    yield at_most("T4 batch", unequal(first, tensors(problem.batch(12))), 0, "tensors that differ when asked again")
    repeated = int(unequal(first, tensors(problem.batch(13))) == 0)
    yield at_most("T4 batch", repeated, 0, "whether iterations 12 and 13 get the same batch")
