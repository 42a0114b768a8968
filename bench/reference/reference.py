"""The reference: a gradient in float64 and how far it is known, or why it is not known.

Two independent ways (``two_ways``) must agree; where they do not, differences of the loss decide (``referee``).
"""

from dataclasses import dataclass

from torch import Tensor

from odegrad.errors import OdegradError
from odegrad.reference.grids import Budget, BudgetSpentError
from odegrad.reference.referee import rule
from odegrad.reference.subject import Subject
from odegrad.reference.two_ways import NotSettledError, TwoWays, both, relative_distance

DISAGREE = {True: 1e-6, False: 1e-2}
"""From this difference of the two ways on the referee is asked, where the refined gradient settles and across kinks."""
REFEREE_BUDGET = 4.0
"""The referee may take so many times the f calls that the two ways were allowed."""


@dataclass(frozen=True)
class Reference:
    """The gradient that others are held against."""

    gradient: Tensor | None
    """One float64 vector on the CPU; None where it is not known."""
    error: float | None
    """How far it is known, relative to its size: the two ways' difference, or the last change by a refinement."""
    calls: int
    """f calls that it has cost, of both directions."""
    reason: str = ""
    """Why there is none, in one sentence."""


def reference(
    subject: Subject,
    *,
    strict: bool = False,
    budget: float = float("inf"),
    wanted: float = 0.0,
    seconds: float = float("inf"),
) -> Reference:
    """Return the reference of a float64 subject; what fails is a reason, not an error.

    Parameters
    ----------
    subject
        The loss and its inputs in float64.
    strict
        Ask the referee even where the two ways agree.
    budget
        f calls that both ways may cost; by default 30,000, or 40 times a tight solve's if that is more.
    wanted
        A relative error that is enough for the verdict that rests on it; 0 asks for rounding. What is told is how far
        the gradient is known, whether that is enough or not.
    seconds
        That it may take.
    """
    spent = Budget(budget, seconds=seconds)
    try:
        ways = both(subject, spent, wanted)
        error = max(relative_distance(ways.costate, ways.replayed), ways.last_change)
        limit = max(DISAGREE[ways.settled], 80.0 * subject.loss_epsilon, wanted)
        if strict or not error <= limit:
            return _ruled(subject, ways, error, limit, spent)
    except BudgetSpentError as raised:
        return _none(spent, f"its reference takes {raised}")
    except NotSettledError as raised:
        return _none(spent, str(raised))
    except OdegradError as raised:
        return _none(spent, f"its equation cannot be solved at tight tolerance: {str(raised).splitlines()[0]}")
    except RuntimeError as raised:  # of a field or a loss that does not work on float64 numbers
        said = (str(raised).splitlines() or [""])[0]
        return _none(spent, f"its float64 twin cannot be solved: {type(raised).__name__}: {said}")
    return Reference(ways.replayed if ways.settled else ways.costate, error, spent.calls)


def _ruled(subject: Subject, ways: TwoWays, error: float, limit: float, spent: Budget) -> Reference:
    apart = relative_distance(ways.costate, ways.replayed)
    spent.limit = spent.calls + REFEREE_BUDGET * spent.limit
    ruling = rule(subject, ways.replayed, ways.costate, spent)
    if error <= limit:
        return Reference(ways.replayed if ways.settled else ways.costate, max(error, ruling.first), spent.calls)
    if ruling.takes is None:
        return _none(
            spent,
            f"two references differ by {apart:.1e}, and differences of the loss lie {ruling.first:.1e} and "
            f"{ruling.second:.1e} from them",
        )
    taken = (ways.replayed, ways.costate)[ruling.takes]
    return Reference(taken, (ruling.first, ruling.second)[ruling.takes], spent.calls)


def _none(spent: Budget, reason: str) -> Reference:
    return Reference(None, None, spent.calls, reason)
