"""What the gate compares: each metric, how two values of it are compared, and the band of another machine class."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from odegrad.records.record import COLUMNS

ROUNDING = 1e-12
"""Relative gradient errors below are those of float64 rounding, and all alike."""

SAME_CLASS_DECADES = 0.5
"""How far an error's order of magnitude may move on one machine class; the gradient's bits are held beside it."""

CLASS = ("architecture", "cpu", "cpu_model", "instruction_set", "threads", "torch", "python", "numpy", "blas")
"""What two machines must share, of a record's ``machine``, for their figures to be equal to the bit."""


class Kind(StrEnum):
    """How two values of a metric are compared."""

    COUNT = "count"
    """Equal on one machine class; otherwise by their ratio."""
    ERROR = "error"
    """By their order of magnitude."""
    DIGEST = "digest"
    """Equal on one machine class; otherwise not at all."""
    TRAINED = "trained"
    """By their ratio always: training magnifies rounding."""


@dataclass(frozen=True)
class Metric:
    """A column that the gate compares."""

    name: str
    kind: Kind
    band: float
    """Largest relative change, for errors the largest change in decades, where values need not be equal."""


_COUNTS = (
    "nfe_forward", "nfe_backward", "nfe_tap", "nfe_outside", "vjps",
    "accepted_steps", "rejected_steps", "accepted_steps_backward", "rejected_steps_backward",
    "operators_forward", "operators_backward", "flops_forward", "flops_backward", "saved_bytes", "peak_bytes",
)  # fmt: skip

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        *(Metric(name, Kind.COUNT, 0.1) for name in _COUNTS),
        Metric("gradient_relative_error", Kind.ERROR, 1.0),
        Metric("gradient_method_error", Kind.ERROR, 1.0),
        Metric("gradient_digest", Kind.DIGEST, 0.0),
        Metric("metric_value", Kind.TRAINED, 0.05),
        Metric("trained_nfe_forward", Kind.TRAINED, 0.1),
        Metric("trained_nfe_backward", Kind.TRAINED, 0.1),
        Metric("trained_gradient_relative_error", Kind.ERROR, 1.0),
        Metric("trained_gradient_method_error", Kind.ERROR, 1.0),
    )
}
"""Every metric of the exact gate, with its band where a baseline declares none."""

HIGHER_IS_BETTER: Mapping[str, bool | None] = {column.name: column.higher_is_better for column in COLUMNS}


def machine_class(machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a record's ``machine`` decides about a figure's last bit."""
    return {name: machine.get(name) for name in CLASS}


def kept(name: str, value: Any) -> Any:
    """Return a metric's value as a baseline keeps it: errors to two digits, trained figures to six."""
    digits = {Kind.ERROR: 2, Kind.TRAINED: 6}.get(METRICS[name].kind)
    return float(f"{value:.{digits}g}") if digits and isinstance(value, float) else value


def moved(name: str, old: Any, new: Any, limit: float) -> bool:
    """Return whether a metric's value is further than ``limit`` from ``old``; 0 asks for equal values.

    ``limit`` is relative to ``old``, for errors in decades; a NaN equals a NaN and nothing else.
    """
    if METRICS[name].kind is Kind.DIGEST or not (_finite(old) and _finite(new)):
        return not (old == new or (old != old and new != new))  # noqa: PLR0124 (NaN)
    if METRICS[name].kind is Kind.ERROR:
        return abs(math.log10(max(new, ROUNDING) / max(old, ROUNDING))) > limit
    return bool(abs(new - old) > limit * abs(old))


def limit_of(name: str, bands: Mapping[str, float], exact: bool) -> float | None:
    """Return how far a metric may move; None if it cannot be compared, as bits of another machine class.

    ``exact`` says whether equal values can be asked for; ``bands`` are those that a baseline declares.
    """
    metric = METRICS[name]
    if exact and metric.kind in {Kind.COUNT, Kind.DIGEST}:
        return 0.0
    if metric.kind is Kind.DIGEST:
        return None
    return SAME_CLASS_DECADES if exact and metric.kind is Kind.ERROR else bands.get(name, metric.band)


def better(name: str, old: Any, new: Any, higher_is_better: bool | None = None) -> bool | None:
    """Return whether a move from ``old`` to ``new`` is a win; None where neither direction is."""
    higher = HIGHER_IS_BETTER.get(name) if higher_is_better is None else higher_is_better
    if higher is None or METRICS[name].kind is Kind.DIGEST or not (_finite(old) and _finite(new)):
        return None
    return bool((new > old) is higher)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
