"""Whether a gradient is accurate: one rule for comparisons, records, diagnoses, checks and gates.

A gradient may be off by ten times what naive backprop is off by, or by ten times the tolerance, but never by more than
a cap. What the reference itself is not known to counts on both sides: a close call is undecided.
"""

import math
from typing import Final, Literal

SLACK = 10.0
CAPS = (1e-2, 0.1)
"""The cap is ten tolerances, within these."""

DECIDING = 100.0
"""A reference that is known to the accurate error over this leaves few gradients undecided."""

Accuracy = Literal["accurate", "inaccurate", "undecided"]

UNDECIDED: Final = "undecided"
"""What every verdict begins with that could not be given."""


def largest_error(naive_error: float | None, rtol: float) -> float:
    """Return the relative error up to which a gradient is accurate at tolerance ``rtol``.

    ``naive_error`` is that of naive backprop on the same solver; None or what is not finite leaves the tolerance alone.
    """
    cap = min(CAPS[1], max(CAPS[0], SLACK * rtol))
    known = naive_error if naive_error is not None and math.isfinite(naive_error) else 0.0
    return min(SLACK * max(known, rtol), cap)


def enough(rtol: float) -> float:
    """Return how far a reference must be known, relative to its size, to decide on gradients at tolerance ``rtol``."""
    return largest_error(None, rtol) / DECIDING


def accuracy(error: float | None, reference_error: float | None, limit: float) -> Accuracy:
    """Return the verdict on a gradient that lies ``error`` from a reference that is known to ``reference_error``.

    Both are relative to the reference's size; None where there is no reference. A gradient that is not finite is
    inaccurate.
    """
    if error is None or reference_error is None:
        return UNDECIDED
    if not math.isfinite(error):
        return "inaccurate"
    if error + reference_error <= limit:
        return "accurate"
    return "inaccurate" if error - reference_error > limit else UNDECIDED
