"""What gradients are seen to be off by: each method's against the reference, within an allowance of time."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from odegrad.binding import solve_with
from odegrad.contracts import GradientMethod
from odegrad.errors import InaccurateGradientWarning, OdegradError, UnsupportedError
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.reference.accuracy import DECIDING, enough
from odegrad.reference.allowance import Allowance, Tell
from odegrad.reference.reference import Reference, reference
from odegrad.reference.subject import Subject
from odegrad.reference.two_ways import relative_distance
from odegrad.registry import build_gradient, solver_for

UNTIL_REFERENCE, UNTIL_OBSERVED = 0.3, 0.5
"""Of the time that a diagnosis may take: when the reference ends, and behind which no gradient begins."""
UNOBSERVED = "not observed"
"""What stands for an error for which there was no time."""
METHOD_REFUSES = "refused"
"""What stands for the error of a method that cannot do a solve of the loss."""


@dataclass(frozen=True)
class Observed:
    """One method with its solver, and what was observed of it."""

    name: str
    method: GradientMethod
    solver: OneStepSolver
    error: float | None
    failure: str


@dataclass(frozen=True)
class Observations:
    """The reference, and what was observed of every method."""

    true: Reference
    methods: list[Observed]

    @property
    def missing(self) -> list[str]:
        """Return the methods for which there was no time."""
        return [each.name for each in self.methods if each.failure.startswith(UNOBSERVED)]


def observe(
    subject: Subject,
    names: Sequence[str],
    solver: OneStepSolver,
    wanted: float,
    allowance: Allowance,
    tell: Tell,
) -> Observations:
    """Return every method's error against a reference that is as good as the verdicts need, and tell each."""
    tell("solving for the float64 reference")
    close = min(wanted / DECIDING, enough(solver.controller.rtol))
    true = reference(subject, wanted=close, seconds=allowance.left(UNTIL_REFERENCE))
    tell(true.reason or f"the reference is known to {true.error:.1e}")
    seen = []
    for name in names:
        method = build_gradient(name)
        mine = solver_for(method, solver) or solver
        error, failure = None, f"{UNOBSERVED}: {allowance} was spent"
        if not allowance.over(UNTIL_OBSERVED):
            error, failure = _error_of(method, subject, true, mine)
        tell(f"{name}: {failure or ('no reference' if error is None else f'off by {error:.1e}')}")
        seen.append(Observed(name, method, mine, error, failure))
    return Observations(true, seen)


def _error_of(
    method: GradientMethod, subject: Subject, true: Reference, solver: OneStepSolver
) -> tuple[float | None, str]:
    """Return the relative error of the gradient, None where nothing is known to hold it against, and what it raised."""
    try:
        with warnings.catch_warnings(action="ignore", category=InaccurateGradientWarning):
            found = subject.gradient(solve_with(method, solver))
    except UnsupportedError as error:
        return None, f"{METHOD_REFUSES}: {str(error).splitlines()[0]}"
    except (OdegradError, RuntimeError) as error:
        return None, str(error).splitlines()[0]
    if not bool(torch.isfinite(found).all()):
        return None, "its gradient is not finite"
    return (None if true.gradient is None else relative_distance(found, true.gradient)), ""
