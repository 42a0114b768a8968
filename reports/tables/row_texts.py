"""The texts of a row of ``odegrad.reports.spread.with_spread``: no number more exact than its seeds know it."""

import math
from collections.abc import Callable
from typing import Any

from odegrad.reports import units


def times(row: Any) -> str:
    """Return the times of an iteration, no more exact than they are known."""
    return units.seconds_together([row.forward_seconds, row.backward_seconds, row.update_seconds], row.time_noise)


def part_of_iteration(row: Any, name: str) -> str:
    """Return the time of a part of an iteration, no more exact than the iteration's is known."""
    return units.seconds_together([getattr(row, name)], row.time_noise)


def wall_clock(row: Any) -> str:
    """Return the training's time, as a range where the seeds lie far apart."""
    if row.train_noise > units.WIDE:
        return units.seconds_between(row.train_seconds_least, row.train_seconds_most)
    return units.seconds_together([row.train_seconds], row.train_noise)


def calls(row: object, phase: str) -> str:
    """Return the f calls of a phase, ``forward`` or ``backward``, as a range where no seed has the median."""
    name = f"nfe_{phase}"
    if getattr(row, f"{name}_between"):
        return units.count_between(getattr(row, f"{name}_least"), getattr(row, f"{name}_most"))
    return units.count(getattr(row, name))


def peak(row: Any) -> str:
    """Return the peak bytes, as a range where the seeds lie far apart."""
    if row.peak_noise > units.WIDE:
        return units.memory_between(row.peak_bytes_least, row.peak_bytes_most)
    return units.memory(row.peak_bytes)


def metric_ends(row: Any) -> str:
    """Return the interval of a row's metric, or from fewer seeds their range, which is said; nothing of one seed."""
    if not math.isnan(row.metric_low):
        return f"{interval_text(row.metric_low, row.metric_high)} (interval of {row.n_ok})"
    return (
        f"{interval_text(row.metric_value_least, row.metric_value_most)} (range of {row.n_ok})" if row.n_ok > 1 else ""
    )


def interval_text(low: float, high: float, text: Callable[[float], str] = units.metric) -> str:
    """Return an interval's text; nothing where there is none, or where both ends are infinite."""
    return "" if math.isnan(low) or (low == high and math.isinf(low)) else f"{text(low)} to {text(high)}"
