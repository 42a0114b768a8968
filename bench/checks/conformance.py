"""Conformance of a gradient method or a task: what ``odegrad check NAME`` and the tests both run."""

import traceback
from collections.abc import Callable, Iterator

from odegrad.catalogue import PAIRS
from odegrad.checks.accuracy import ACCURACY_CHECKS
from odegrad.checks.behaviour import BEHAVIOUR_CHECKS
from odegrad.checks.effects import EFFECT_CHECKS
from odegrad.checks.limits import LIMIT_CHECKS
from odegrad.checks.memory import MEMORY_CHECKS
from odegrad.checks.result import CheckResult
from odegrad.checks.task_builds import missing_members
from odegrad.checks.tasks import TASK_CHECKS
from odegrad.contracts import GradientMethod, TaskInfo, Traits
from odegrad.errors import UnknownNameError, UsageError
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.processes.guarded import guarded
from odegrad.registry import (
    build_gradient,
    build_solver,
    build_task,
    check_supported,
    gradients,
    is_foreign,
    solver_for,
    tasks,
)
from odegrad.user.files import load_from_file

Check = Callable[[GradientMethod, OneStepSolver], Iterator[CheckResult]]

CHECKS: tuple[Check, ...] = (*ACCURACY_CHECKS, *LIMIT_CHECKS, *BEHAVIOUR_CHECKS, *EFFECT_CHECKS, *MEMORY_CHECKS)
"""Every check; one that does not apply to a method yields nothing."""


def check_guarded(name: str, solver: str | None = None, timeout: float | None = None) -> list[CheckResult]:
    """Return the results of ``check``; code that is not odegrad's own is checked in a measuring process.

    Raises
    ------
    UnknownNameError, UsageError
        As ``check``, and if the code ends the process that checks it, or takes longer than ``timeout`` seconds.
    """
    if not is_foreign(name):
        return list(check(name, solver))
    rows = guarded(f"{__name__}:check_rows", name, solver, what=name, timeout=timeout)
    return [CheckResult(**row) for row in rows]


def check_rows(name: str, solver: str | None, _progress: object) -> list[dict[str, object]]:
    """Return the results of every check as plain data; called in a measuring process."""
    return [dict(result.__dict__) for result in check(name, solver)]


def check(name: str, solver: str | None = None) -> Iterator[CheckResult]:
    """Run every check that applies to ``name``, a gradient method or a task, and yield the results as they come.

    ``solver`` is for a gradient method.

    Raises
    ------
    UnknownNameError
        If nothing has that name.
    UsageError
        If a class in a file is neither a method nor a task, or a task is given a solver.
    """
    if not is_task(name):
        yield from check_method(name, solver)
    elif solver is not None:
        raise UsageError(f"--solver {solver}: expected none with a task, which is checked with dopri5; leave it out")
    else:
        yield from check_task(name)


def is_task(name: str) -> bool:
    """Return whether ``name`` is a task's rather than a gradient method's.

    Raises
    ------
    UnknownNameError
        If it is neither's.
    UsageError
        If it is a class in a file and neither.
    """
    if name.endswith(".py"):
        raise UsageError(f"{name}: expected a name in that file too, as in {name}:Name")
    if ".py:" not in name:
        known = [*gradients.names(), *PAIRS]
        if name not in {*known, *tasks.names()}:
            raise UnknownNameError("gradient method or task", name, [*known, *tasks.names()])
        return name not in known
    found = load_from_file(name, "gradient method or task")
    if isinstance(getattr(found, "info", None), TaskInfo):
        return True
    if isinstance(getattr(found, "traits", None), Traits):
        return False
    raise UsageError(
        f"{name}: expected a gradient method, which has traits (a Traits), or a task, which has info (a TaskInfo), got "
        "neither; odegrad.contracts says what each must have"
    )


def check_task(name: str) -> Iterator[CheckResult]:
    """Run every check of the task ``name`` and yield the results as they come.

    Raises
    ------
    UnknownNameError
        If there is no such task.
    DataError
        If its data are not there and cannot be fetched.
    """
    task = build_task(name)
    missing = missing_members(task)
    if missing:
        yield CheckResult("T0 members", False, float(len(missing)), 0.0, f"missing: {'; '.join(missing)}")
        return
    for each in TASK_CHECKS:
        yield from run_check(each, task)


def check_method(name: str, solver: str | None = None) -> Iterator[CheckResult]:
    """Run every check that applies to the gradient method ``name`` and yield the results as they come.

    ``solver`` is an adaptive solver; without one, the first of dopri5 and alf that the method takes. A check that
    raises is a failed result, and the others go on.

    Raises
    ------
    UnknownNameError
        If there is no such method or solver.
    UnsupportedError
        If the method cannot use the solver.
    """
    method = build_gradient(name)
    built = suitable_solver(method) if solver is None else build_solver(solver, 1e-7, 1e-9)
    check_supported(method, built)
    for each in CHECKS:
        yield from run_check(each, method, built)


def shared_loop_methods() -> list[str]:
    """Return the names of the registered gradient methods that stand on the shared solver loop."""
    return [name for name in gradients.names() if gradients.get(name).traits.shared_loop]


def suitable_solver(method: GradientMethod) -> OneStepSolver:
    """Return the first of dopri5 and alf that ``method`` takes, dopri5 if none."""
    dopri5 = build_solver("dopri5", 1e-7, 1e-9)
    return solver_for(method, dopri5) or dopri5


def run_check(check: Callable[..., Iterator[CheckResult]], *subject: object) -> Iterator[CheckResult]:
    """Yield the results of one check of ``subject``, a method and a solver or a task; what it raises is a failure."""
    try:
        yield from check(*subject)
    except (Exception, SystemExit) as error:  # a user's method or task may raise anything
        where = traceback.extract_tb(error.__traceback__)[-1]
        detail = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} ({where.name})"
        yield CheckResult(check.__name__.replace("_", " "), False, None, None, detail)
