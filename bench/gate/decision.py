"""Slower, fine or undecided: what pairs of processes say about a change of time; pure, tested by simulation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from scipy import special

BOUND_LEVEL = 0.99
"""Of every one-sided bound."""

MIN_DELTA = 0.05
"""A smaller slow-down is not looked for: identical code in two environments may differ by as much."""

UNFIT = 0.15
"""A control that allows no smaller slow-down than this says that the machine cannot tell what is fine now."""

TRIMMED = 0.2
"""Share of the pairs that is cut off at either end."""

MIN_PAIRS = 10
"""Of a decision, five in each of the two batches."""


class Decision(StrEnum):
    """What is known about a change of time."""

    SLOWER = "slower"
    FINE = "fine"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Bounds:
    """One-sided 99 % bounds of the trimmed mean of the log-ratios of head to base."""

    low: float
    mean: float
    high: float


@cache
def quantile(freedom: int) -> float:
    """Return the quantile of Student's t at ``BOUND_LEVEL`` with ``freedom`` degrees of freedom."""
    return float(special.stdtrit(freedom, BOUND_LEVEL))


def bounds(ratios: Sequence[float]) -> Bounds:
    """Return the bounds from the log-ratios of independent pairs; infinite with fewer than two.

    A fifth of the pairs is cut off at either end, because a busy machine makes some pairs far off: Student's t of the
    trimmed mean with the winsorized variance (Tukey and McLaughlin, Less vulnerable confidence and significance
    procedures for location based on a single sample, Sankhya A 25, 1963).
    """
    number, ordered = len(ratios), sorted(ratios)
    if number < 2:
        return Bounds(-math.inf, ratios[0] if ratios else math.nan, math.inf)
    cut = math.floor(TRIMMED * number)
    kept = ordered[cut : number - cut]
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    mean, middle = math.fsum(kept) / len(kept), math.fsum(winsorized) / number
    squares = math.fsum((each - middle) ** 2 for each in winsorized)
    error = math.sqrt(squares / (number - 1) * number) / len(kept)
    half = quantile(len(kept) - 1) * error
    return Bounds(mean - half, mean, mean + half)


def floor(control: Sequence[float]) -> float:
    """Return the smallest slow-down that cannot be noise, from pairs of the base's two builds: their farther bound."""
    found = bounds(control)
    return math.expm1(max(abs(found.low), abs(found.high)))


def differ(control: Sequence[float]) -> bool:
    """Return whether the base's two builds differ: in each batch both bounds lie on the same side of zero."""
    batches = [bounds(control[batch::2]) for batch in range(2)]
    same_side = all(each.low > 0.0 for each in batches) or all(each.high < 0.0 for each in batches)
    return len(control) >= MIN_PAIRS and same_side


def delta(control: Sequence[float]) -> float:
    """Return the slow-down that is looked for: 5 %, or twice what the base's two builds differ by."""
    return max(MIN_DELTA, 2 * floor(control))


def decide(ratios: Sequence[float], control: Sequence[float]) -> Decision:
    """Return the decision about a cell.

    Parameters
    ----------
    ratios
        Log-ratio of head to base of every pair; even and odd ones are two independent batches, each against a build of
        the base of its own.
    control
        The same of the second build to the first.

    Returns
    -------
    Decision
        ``slower`` if in each batch the lower bound is beyond ``delta(control)``; ``fine`` if the upper bound of all is
        below 5 %, however much more a noisy machine must show to be told from noise, unless the machine is unfit.
    """
    least = delta(control)
    if len(ratios) < MIN_PAIRS:
        return Decision.UNDECIDED
    if all(bounds(ratios[batch::2]).low > math.log1p(least) for batch in range(2)):
        return Decision.SLOWER
    fine = bounds(ratios).high < math.log1p(MIN_DELTA) and least <= UNFIT
    return Decision.FINE if fine else Decision.UNDECIDED
