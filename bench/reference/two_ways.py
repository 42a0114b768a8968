"""Two gradients of one loss by independent ways: a refined replay, and a costate that controls its own error.

(A) Discretise first: the accepted steps of a tight solve, cut into ever smaller parts until the *gradient* stands
still. The step control sees the state alone; where that rests, its steps grow past the stability limit, and the
derivative of a step is then far from that of the flow. Watching the gradient itself hides nothing.

(B) Differentiate first: state, costate and parameter gradient are solved backwards in one norm, the state set anew at
every end of a step of (A), so that the backward instability of the state acts over one resolved step only.

They share the field, its vector-Jacobian product and the times at which the state is set anew, and nothing else.

Where explicit steps are too many, implicit ones are taken both ways (``stiff_ways``).
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.binding import solve_with
from odegrad.contracts import Solve
from odegrad.errors import (
    InaccurateGradientWarning,
    SolverError,
    StepSizeUnderflowError,
    TooManyStepsError,
    UnsupportedError,
)
from odegrad.methods.gradients.aca import Aca
from odegrad.methods.gradients.adjoint import Adjoint
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import OneStepSolver, make_solver
from odegrad.reference.grids import Budget, BudgetSpentError, Grids
from odegrad.reference.stiff_ways import MAX_CUTS, costate_implicitly, cut_implicitly, recorded_implicitly
from odegrad.reference.subject import Subject

RECORD_TOLERANCE, COSTATE_TOLERANCE = 1e-9, 1e-10
RESOLVED, SETTLED = 1e-9, 1e-11
"""Relative changes of the gradient by a refinement: at the first one more brings it to rounding, at the second none is
needed."""
LOOSEST_RECORD, LOOSEST_COSTATE, KINKED_COSTATE = 1e-8, 1e-9, 1e-6
"""Tolerances where an error far larger than these is enough; of the costate also across kinks, where dopri5 takes far
fewer steps than dopri8."""
REFINING_SHARE = 0.5
"""No refinement begins that would leave the other way less than so much of the budget."""
COSTATE_PIECES = 2
"""(B) sets the state anew at half of the parts that (A) ends with, but at least at so many per step."""
MAX_PIECES = 128
MIN_BUDGET, BUDGET_RECORDINGS = 30_000, 40
"""f calls that both ways together may cost: the larger of a number, and so many times those of the recorded solve."""
STANDS_STILL = 0.25
"""A refinement that leaves more than this of the change before it finds kinks; at order 8 it leaves 1/256."""
FEW_STEPS, MAX_EXPLICIT = 3_000, 100_000
"""Explicit steps of a recorded solve: beyond the first implicit ones are tried, and where they settle nothing explicit
ones to the second."""
EXPLICIT_SHARE = 0.2
"""Of a budget that is given, what explicit steps may take before implicit ones are tried."""
STIFF_RESOLVED = 1e-7
"""A change by the last cut of implicit steps at which their gradient is one to hold others against."""
SAFETY = 4.0
"""Changes across kinks go up and down; where no refinement to rounding follows, the error is told as so many times the
last one, or the larger of the last two where they do not fall."""
KINK_TOLERANCES = (1e-7, 1e-8)
"""Of naive dopri5 where the dynamics have kinks: no high order converges there, and adaptive steps find the kinks."""


@dataclass(frozen=True)
class TwoWays:
    """Both gradients, and how far the first one has settled."""

    replayed: Tensor
    costate: Tensor
    last_change: float
    """By the last refinement, relative to its size; times ``SAFETY`` where that was not to rounding."""
    settled: bool = True
    """False where the refined gradient converges no faster than across kinks."""


class NotSettledError(ArithmeticError):
    """The refined replay did not stand still, or is nothing to hold a gradient against."""


def both(subject: Subject, budget: Budget, wanted: float = 0.0) -> TwoWays:
    """Return the gradients of a float64 subject by both ways.

    Parameters
    ----------
    subject
        In float64.
    budget
        What they may cost.
    wanted
        A relative error that is enough for what asks; the refinement then ends there, or where the gradient turns out
        to have kinks, or with the last one that the budget allows. 0 asks for rounding.

    Raises
    ------
    NotSettledError
        If the refined gradient does not stand still at the finest cut, is not finite or is zero.
    BudgetSpentError
        If the budget is spent; ``budget.limit`` is set from the recorded solve.
    SolverError
        If the equation cannot be solved at tight tolerance.
    """
    # The second way says itself where its state misses so tight a tolerance; here the first one shows by how much.
    with warnings.catch_warnings(action="ignore", category=InaccurateGradientWarning):
        if not subject.smooth:
            return _kinked(subject, budget)
        explicitly = _smooth if wanted <= RESOLVED else _enough
        try:
            return explicitly(subject, budget, wanted, _few_steps(budget))
        except (TooManyStepsError, StepSizeUnderflowError):
            stiff = _stiff(subject, budget, wanted)
        return stiff or explicitly(subject, budget, wanted, MAX_EXPLICIT)


def _few_steps(budget: Budget) -> int:
    """Return the explicit steps after which implicit ones are tried: of dopri8, 13 calls each."""
    spared = EXPLICIT_SHARE * min(budget.limit, 1e9) / 13.0
    return max(1, min(FEW_STEPS, int(spared)))


def _stiff(subject: Subject, budget: Budget, wanted: float) -> TwoWays | None:
    """Return both gradients by implicit steps; None where these do not settle it, or cannot be taken."""
    try:
        grids = recorded_implicitly(subject, budget, FEW_STEPS)
        _set_limit(budget)
        pieces, found, change = 1, cut_implicitly(subject, grids, 1, budget), float("inf")
        while change > max(RESOLVED, wanted / SAFETY, 8.0 * subject.loss_epsilon) and pieces < MAX_CUTS:
            pieces, coarse = 2 * pieces, found
            found = cut_implicitly(subject, grids, pieces, budget)
            change = relative_distance(coarse, found)
        if not change <= max(STIFF_RESOLVED, wanted):
            return None
        costate = costate_implicitly(subject, grids, max(pieces // 2, COSTATE_PIECES), budget)
    except BudgetSpentError:
        raise
    except (SolverError, UnsupportedError):
        return None
    return TwoWays(found, costate, change)


def _enough(subject: Subject, budget: Budget, wanted: float, max_steps: int) -> TwoWays:
    """Return both gradients, known to ``wanted`` where that can be had: a refinement less, looser solves."""
    tolerance = min(max(RECORD_TOLERANCE, wanted / 100.0), LOOSEST_RECORD)
    grids = _recorded(subject, make_solver("dopri8", rtol=tolerance, atol=tolerance, max_steps=max_steps), budget)
    enough, cost = max(wanted, 8.0 * subject.loss_epsilon), 0.0
    pieces, found, changes = 1, refined(subject, grids, "dopri8", 1, budget), [float("inf")]
    while SAFETY * changes[-1] > enough and pieces < MAX_PIECES and _falls(changes):
        if len(changes) > 1 and budget.used() + 2.0 * cost > REFINING_SHARE:
            break
        before, pieces, coarse = budget.used(), 2 * pieces, found
        found = refined(subject, grids, "dopri8", pieces, budget)
        changes.append(relative_distance(coarse, found))
        cost = budget.used() - before
    settled = SAFETY * changes[-1] <= enough
    tolerance = min(max(COSTATE_TOLERANCE, wanted / 1000.0), LOOSEST_COSTATE)
    scheme, parts = ("dopri8", COSTATE_PIECES) if settled else ("dopri5", 1)
    tolerance = tolerance if settled else min(max(tolerance, changes[-1] / 100.0), KINKED_COSTATE)
    back = make_solver(scheme, rtol=tolerance, atol=tolerance)
    costate = subject.gradient(grids.along(Adjoint(parameters="state"), back, parts, budget))
    return TwoWays(found, costate, SAFETY * (changes[-1] if settled else max(changes[-2:])), settled)


def _falls(changes: list[float]) -> bool:
    """Return whether the last refinement has changed the gradient by far less than the one before."""
    return len(changes) < 3 or changes[-1] <= STANDS_STILL * changes[-2]


def _smooth(subject: Subject, budget: Budget, _wanted: float, max_steps: int) -> TwoWays:
    solver = make_solver("dopri8", rtol=RECORD_TOLERANCE, atol=RECORD_TOLERANCE, max_steps=max_steps)
    grids = _recorded(subject, solver, budget)
    floor = 8.0 * subject.loss_epsilon
    resolved, settled = max(RESOLVED, floor), max(SETTLED, floor)
    pieces, found, change = 1, refined(subject, grids, "dopri8", 1, budget), float("inf")
    while change > settled and pieces < MAX_PIECES:
        pieces *= 2
        was_resolved, coarse = change <= resolved, found
        found = refined(subject, grids, "dopri8", pieces, budget)
        change = relative_distance(coarse, found)
        if was_resolved:
            break
    if not change <= resolved:
        raise NotSettledError(f"with every step cut into {pieces} parts the gradient still changes by {change:.1e}")
    back = make_solver("dopri8", rtol=COSTATE_TOLERANCE, atol=COSTATE_TOLERANCE)
    solve = grids.along(Adjoint(parameters="state"), back, max(pieces // 2, COSTATE_PIECES), budget)
    return TwoWays(found, subject.gradient(solve), change)


def _kinked(subject: Subject, budget: Budget) -> TwoWays:
    loose, tight = (make_solver("dopri5", rtol=tol, atol=tol) for tol in KINK_TOLERANCES)
    grids = _recorded(subject, tight, budget)
    first, second = (subject.gradient(_watched(solver, budget)) for solver in (loose, tight))
    solve = grids.along(Adjoint(parameters="state"), tight, 1, budget)
    return TwoWays(second, subject.gradient(solve), relative_distance(first, second), settled=False)


def _watched(solver: OneStepSolver, budget: Budget) -> Solve:
    bound = solve_with(Naive(), solver)
    return lambda f, y0, ts: bound(budget.watched(f), y0, ts)


def _recorded(subject: Subject, solver: OneStepSolver, budget: Budget) -> Grids:
    """Return the grids of the subject's solves, and let the budget follow from their cost."""
    grids = Grids()
    subject.value(grids.recording(Naive(), solver, budget))
    _set_limit(budget)
    return grids


def _set_limit(budget: Budget) -> None:
    """Let the budget, where none is given, follow from the calls until now."""
    if budget.limit == float("inf"):
        budget.limit = max(MIN_BUDGET, BUDGET_RECORDINGS * budget.calls)


def refined(subject: Subject, grids: Grids, scheme: str, pieces: int, budget: Budget) -> Tensor:
    """Return the gradient along the recorded steps, each cut into ``pieces``; one step's graph lives at a time.

    Raises
    ------
    NotSettledError
        If it is not finite or zero.
    """
    found = subject.gradient(grids.along(Aca(), make_solver(scheme, num_steps=1), pieces, budget))
    if not bool(torch.isfinite(found).all()):
        raise NotSettledError("the gradient is not finite")
    if not bool(found.any()):
        raise NotSettledError("the gradient is zero, and no error is relative to it")
    return found


def relative_distance(a: Tensor, b: Tensor) -> float:
    """Return ``||a - b|| / ||b||``; infinite or NaN where it has no size."""
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))
