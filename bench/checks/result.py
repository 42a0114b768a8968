"""What a conformance check answers."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CheckResult:
    """One check of one method: its figure, the threshold it must meet, and what was compared."""

    check: str
    passed: bool
    measured: float | None
    threshold: float | None
    detail: str


def at_most(check: str, measured: float, threshold: float, detail: str) -> CheckResult:
    """Return the result of a figure that must not exceed ``threshold``; NaN fails."""
    return CheckResult(check, bool(measured <= threshold), measured, threshold, detail)


def at_least(check: str, measured: float, threshold: float, detail: str) -> CheckResult:
    """Return the result of a figure that must reach ``threshold``; NaN fails."""
    return CheckResult(check, bool(measured >= threshold), measured, threshold, detail)


def log_slope(x: list[float], y: list[float]) -> float:
    """Return the least-squares slope of log y against log x."""
    u, v = [math.log(a) for a in x], [math.log(max(b, 1e-300)) for b in y]
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    top = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True))
    return top / sum((a - mean_u) ** 2 for a in u)
