"""Medians over seeds and their bootstrap intervals; every random draw comes from a seed."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from odegrad.errors import UsageError


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in the unit of the values."""

    low: float
    high: float


def finite(values: Iterable[float | None]) -> NDArray[np.float64]:
    """Return the values that were measured and are no NaN, ``[n]``; infinities stay."""
    array = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    return array[~np.isnan(array)]


def median(values: Iterable[float | None]) -> float:
    """Return the median of the values that are no NaN; NaN if there is none."""
    kept = finite(values)
    with np.errstate(invalid="ignore"):  # between two opposite infinities there is no median
        return float(np.median(kept)) if kept.size else float("nan")


def bootstrap_interval(
    values: Iterable[float | None], seed: int = 0, level: float = 0.95, resamples: int = 1000
) -> Interval:
    """Return the percentile bootstrap interval of the median (Efron, 1979).

    Parameters
    ----------
    values
        One value a seed; NaN is left out.
    seed
        Seed of the resampling.
    level
        Coverage, between 0 and 1.
    resamples
        Number of resampled medians.

    Returns
    -------
    Interval
        With one value both ends are that value; with none both are NaN. From very few seeds it is no wider than
        their range, so it says how far they lie apart and no more.

    Raises
    ------
    UsageError
        If ``level`` is not between 0 and 1.
    """
    if not 0.0 < level < 1.0:
        raise UsageError(f"level: expected a number between 0 and 1, got {level}; 0.95 is usual")
    kept = finite(values)
    if kept.size < 2:
        only = float(kept[0]) if kept.size else float("nan")
        return Interval(only, only)
    lower, upper = _medians_of_draws(kept.size, seed, resamples)
    ordered = np.sort(kept)
    tail = (1.0 - level) / 2.0
    with np.errstate(invalid="ignore"):
        medians = np.where(lower == upper, ordered[lower], (ordered[lower] + ordered[upper]) / 2.0)
        if np.isfinite(medians).all():
            low, high = np.quantile(medians, [tail, 1.0 - tail])
        else:  # between infinities there is nothing to interpolate: the drawn medians next to the ends, outwards
            low, high = np.quantile(medians, tail, method="lower"), np.quantile(medians, 1.0 - tail, method="higher")
    return Interval(float(low), float(high))


def spread(values: Iterable[float | None], interval: Interval, what: str) -> str:
    """Return what ``interval``, as ``bootstrap_interval`` makes it of ``values``, is: ``range of 3 seeds``.

    Up to five values it is their range, which has no coverage to speak of; ``what`` is the word for the values.
    """
    kept = finite(values)
    if kept.size and (interval.low, interval.high) == (kept.min(), kept.max()):
        return f"range of {kept.size} {what}" if kept.size > 1 else f"value of one {what.removesuffix('s')}"
    return f"95 % interval of {kept.size} {what}"


@lru_cache(maxsize=256)
def _medians_of_draws(size: int, seed: int, resamples: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each resample the places in order of the one or two values that its median is made of.

    They depend on the number of values alone, so that a table of thousands of rows draws once.
    """
    draws = np.sort(np.random.default_rng(seed).integers(0, size, (resamples, size)), axis=1)
    return draws[:, (size - 1) // 2], draws[:, size // 2]
