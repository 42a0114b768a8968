"""What the gate compares, the columns of a record that say so; when a value has moved, and when that is a win."""

import math
from collections.abc import Mapping
from typing import Any

from odegrad.records.columns import COLUMNS, GATED, Column, Compared

_ROUNDING = 1e-12
"""Relative gradient errors below are those of float64 rounding, and all alike."""

_DIGITS = {Compared.DECADES: 2, Compared.BAND: 6}
"""Significant digits that a baseline keeps."""

SAME_CLASS_DECADES = 0.5
"""How far an error's order of magnitude may move on one machine class; the gradient's bits are held beside it."""

CLASS = ("architecture", "cpu", "cpu_model", "instruction_set", "threads", "torch", "python", "numpy", "blas")
"""What two machines must share, of a record's ``machine``, for their figures to be equal to the bit."""

METRICS: Mapping[str, Column] = {column.name: column for column in COLUMNS if column.compared in GATED}
"""Every column that the exact gate compares; its band is that where a baseline declares none."""


def machine_class(machine: Mapping[str, object]) -> dict[str, object]:
    """Return what of a record's ``machine`` decides about a figure's last bit."""
    return {name: machine.get(name) for name in CLASS}


def kept(name: str, value: object) -> object:
    """Return a metric's value as a baseline keeps it: errors to two digits, trained figures to six."""
    digits = _DIGITS.get(METRICS[name].compared)
    return float(f"{value:.{digits}g}") if digits and isinstance(value, float) else value


def moved(name: str, old: Any, new: Any, limit: float) -> bool:
    """Return whether a metric's value is further than ``limit`` from ``old``; 0 asks for equal values.

    ``limit`` is relative to ``old``, for errors in decades; a NaN equals a NaN and nothing else.
    """
    if METRICS[name].compared is Compared.BITS or not (_finite(old) and _finite(new)):
        return not (old == new or (old != old and new != new))  # noqa: PLR0124 (NaN)
    if METRICS[name].compared is Compared.DECADES:
        return abs(math.log10(max(new, _ROUNDING) / max(old, _ROUNDING))) > limit
    return bool(abs(new - old) > limit * abs(old))


def limit_of(name: str, bands: Mapping[str, float], exact: bool) -> float | None:
    """Return how far a metric may move; None if it cannot be compared, as bits of another machine class.

    ``exact`` says whether equal values can be asked for; ``bands`` are those that a baseline declares.
    """
    metric = METRICS[name]
    if exact and metric.compared in {Compared.EXACT, Compared.BITS}:
        return 0.0
    if metric.compared is Compared.BITS:
        return None
    return SAME_CLASS_DECADES if exact and metric.compared is Compared.DECADES else bands.get(name, metric.band)


def better(name: str, old: object, new: Any, higher_is_better: bool | None = None) -> bool | None:
    """Return whether a move from ``old`` to ``new`` is a win; None where neither direction is."""
    higher = METRICS[name].higher_is_better if higher_is_better is None else higher_is_better
    if higher is None or METRICS[name].compared is Compared.BITS or not (_finite(old) and _finite(new)):
        return None
    return bool((new > old) is higher)


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
