"""Medians over seeds with exact intervals, and exact sign tests: no distribution is assumed, and nothing is drawn."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from odegrad.errors import UsageError

LEVEL = 0.95
"""Least coverage of an interval."""
ERROR_RATE = 0.05
"""How often a verdict may be wrong where there is no effect."""
MIN_VALUES = 6
"""Values from which a median has an interval of ``LEVEL``: all of n lie on one side of it with 2 / 2^n, 0.031 of 6."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in the unit of the values."""

    low: float
    high: float


@dataclass(frozen=True)
class MedianInterval(Interval):
    """An interval of a median between two of the values; the ends are NaN where there is none of the level."""

    coverage: float
    """Least probability that it holds the median; NaN where there is no interval."""
    number: int
    """Values that it was made of."""


def finite(values: Iterable[float | None]) -> Floats:
    """Return the values that were measured and are no NaN, ``[n]``; infinities stay."""
    array = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    return array[~np.isnan(array)]


def median(values: Iterable[float | None]) -> float:
    """Return the median of the values that are no NaN; NaN if there is none."""
    kept = finite(values)
    with np.errstate(invalid="ignore"):  # between two opposite infinities there is no median
        return float(np.median(kept)) if kept.size else float("nan")


def median_interval(values: Iterable[float | None], level: float = LEVEL) -> MedianInterval:
    """Return the narrowest symmetric interval of the median whose ends are values (David and Nagaraja, 2003, 7.1).

    From the k-th least to the k-th largest of n values it misses the median with twice the probability that a binomial
    variable of n and 1/2 is below k, whatever the distribution; ties and infinities make it miss less often. That holds
    for values of unlike distributions with one median too.

    Parameters
    ----------
    values
        One value a seed; NaN is left out.
    level
        Least coverage, between 0 and 1.

    Returns
    -------
    MedianInterval
        Without ends where no two values reach the level: below ``MIN_VALUES`` values at 0.95.

    Raises
    ------
    UsageError
        If ``level`` is not between 0 and 1.
    """
    if not 0.0 < level < 1.0:
        raise UsageError(f"level: expected a number between 0 and 1, got {level}; 0.95 is usual")
    kept = np.sort(finite(values))
    place, coverage = _place(kept.size, level)
    if not place:
        return MedianInterval(math.nan, math.nan, math.nan, kept.size)
    return MedianInterval(float(kept[place - 1]), float(kept[-place]), coverage, kept.size)


@lru_cache(maxsize=256)
def _place(number: int, level: float) -> tuple[int, float]:
    """Return which value from either end is the interval's, 0 if none is, and the coverage."""
    covered = 1.0 - 2.0 * special.bdtr(np.arange(number // 2), number, 0.5)
    place = int((covered >= level).sum())
    return place, float(covered[place - 1]) if place else math.nan


def ends(values: Iterable[float | None], what: str) -> tuple[float, float, str]:
    """Return the interval of the median, or below ``MIN_VALUES`` values their range, with what it is.

    The text is ``96 % interval of 6 seeds`` or ``range of 3 seeds``; a range has no coverage to speak of. ``what`` is
    the word for the values.
    """
    kept = finite(values)
    interval = median_interval(kept)
    if not math.isnan(interval.coverage):
        # 99.99 % is not told as 100 %
        return interval.low, interval.high, f"{math.floor(100 * interval.coverage)} % interval of {kept.size} {what}"
    if not kept.size:
        return math.nan, math.nan, ""
    said = f"range of {kept.size} {what}" if kept.size > 1 else f"value of one {what.removesuffix('s')}"
    return float(kept.min()), float(kept.max()), said


def sign_test(successes: object, trials: object) -> Floats:
    """Return the exact one-sided p-value of the sign test, elementwise.

    The probability of at least as many ``successes`` in ``trials`` where each has a probability of at most 1/2. Ties
    are trials without success: they speak for neither side. 1 without a trial.
    """
    return np.asarray(
        special.bdtrc(np.asarray(successes) - 1, np.asarray(trials, dtype=np.int64), 0.5), dtype=np.float64
    )


def holm(p_values: Floats) -> Floats:
    """Return p-values adjusted by Holm's step-down over the last axis (Holm, 1979), ``[..., n]``.

    Whatever the dependence, hypotheses with an adjusted value of at most r are rejected with a probability of at most
    r that a true one is among them.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    number = p_values.shape[-1]
    order = np.argsort(p_values, axis=-1, kind="stable")
    stepped = np.take_along_axis(p_values, order, -1) * np.arange(number, 0, -1)
    stepped = np.minimum(np.maximum.accumulate(stepped, axis=-1), 1.0)
    adjusted = np.empty_like(stepped)
    np.put_along_axis(adjusted, order, stepped, -1)
    return adjusted


def least_seeds(comparisons: int = 1) -> int:
    """Return from how many seeds on so many sign tests can decide together, where every seed says the same."""
    return max(MIN_VALUES, math.ceil(math.log2(max(comparisons, 1) / ERROR_RATE)))
