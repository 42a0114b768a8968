"""Conformance of a gradient method: what ``odegrad check METHOD`` and the tests both run."""

import traceback
from collections.abc import Callable, Iterator

from odegrad.checks.accuracy import ACCURACY_CHECKS
from odegrad.checks.behaviour import BEHAVIOUR_CHECKS
from odegrad.checks.effects import EFFECT_CHECKS
from odegrad.checks.limits import LIMIT_CHECKS
from odegrad.checks.memory import MEMORY_CHECKS
from odegrad.checks.result import CheckResult
from odegrad.contracts import GradientMethod
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.registry import build_gradient, build_solver, check_supported, gradients

Check = Callable[[GradientMethod, OneStepSolver], Iterator[CheckResult]]

CHECKS: tuple[Check, ...] = (*ACCURACY_CHECKS, *LIMIT_CHECKS, *BEHAVIOUR_CHECKS, *EFFECT_CHECKS, *MEMORY_CHECKS)
"""Every check; one that does not apply to a method yields nothing."""


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
    for check in CHECKS:
        yield from run_check(check, method, built)


def shared_loop_methods() -> list[str]:
    """Return the names of the registered gradient methods that stand on the shared solver loop."""
    return [name for name in gradients.names() if gradients.get(name).traits.shared_loop]


def suitable_solver(method: GradientMethod) -> OneStepSolver:
    """Return the first of dopri5 and alf that ``method`` takes, dopri5 if none."""
    solvers = [build_solver(name, 1e-7, 1e-9) for name in ("dopri5", "alf")]
    return next((s for s in solvers if method.refuses(s) is None), solvers[0])


def run_check(check: Check, method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """Yield the results of one check; what it raises becomes a failed result."""
    try:
        yield from check(method, solver)
    except Exception as error:  # a user's method may raise anything
        where = traceback.extract_tb(error.__traceback__)[-1]
        detail = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} ({where.name})"
        yield CheckResult(check.__name__.replace("_", " "), False, None, None, detail)
