"""What to take: a few sentences, each on a figure of the comparison; never a method that is not accurate."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from odegrad.advice.candidates import REFUSED, TOO_LOOSE, UNMEASURED
from odegrad.advice.race import Race
from odegrad.reference.accuracy import UNDECIDED
from odegrad.reference.allowance import Allowance
from odegrad.reference.reference import Reference

PATIENCE = 5.0
"""The method advised where memory is short takes at most this many times the time of the fastest."""
BLIND = 0.1
"""Naive's steps are too coarse for the gradient where halving them changes it by more than this."""

Row = Mapping[str, Any]


def advice(
    rows: Sequence[Row],
    told: Race | None,
    true: Reference,
    sensitivity: Callable[[], float | None],
    bounding: str = "sees='tangent', max_step",
    *,
    emulated: bool = False,
) -> str:
    """Return which method to take for this model, and why.

    Parameters
    ----------
    rows
        Those of a comparison.
    told
        How the two fastest accurate methods compare; None for fewer than two.
    true
        What the gradients were held against.
    sensitivity
        Returns by how much naive's gradient changes if every step is halved; asked for only where naive is inaccurate.
    bounding
        The solver's options that bound its steps.
    emulated
        Whether times are left out, as the device emulates the field's type.
    """
    accurate = [row for row in rows if str(row["verdict"]).startswith("accurate")]
    good = [row for row in accurate if "backward_seconds" in row]
    if accurate and not good and emulated:
        small = min(accurate, key=lambda row: row["peak_bytes"])
        return (
            f"{len(accurate)} methods are accurate here, of which {small['gradient']} needs the least memory, "
            f"{small['peak_bytes'] / 1e6:.3g} MB at the peak; which is the fastest, a GPU tells."
        )
    if accurate and not good:
        return f"{len(accurate)} methods are accurate here, and there was no time to say which of them is the fastest."
    if not good:
        return _nobody(rows, true)
    return " ".join(filter(None, (_fastest(good, told), _why_not(rows, good, sensitivity, bounding))))


def of_time(rows: Sequence[Row], allowance: Allowance) -> list[str]:
    """Return what there was no time for, in a sentence; nothing where there was enough."""
    missing = [str(row["gradient"]) for row in rows if str(row["verdict"]).startswith(UNMEASURED)]
    untimed = [str(row["gradient"]) for row in rows if "peak_bytes" in row and "backward_seconds" not in row]
    kinds = (("not measured", missing), ("not timed", untimed))
    said = [f"{', '.join(names)} {'were' if len(names) > 1 else 'was'} {what}" for what, names in kinds if names]
    if not said:
        return []
    text = " and ".join(said)
    return [f"{str(allowance)[0].upper()}{str(allowance)[1:]} was spent: {text}. A larger budget measures them."]


def _nobody(rows: Sequence[Row], true: Reference) -> str:
    if all(str(row["verdict"]).startswith(REFUSED) for row in rows):
        return "No method that was asked for takes this solver; their verdicts say why, and what to take instead."
    if true.gradient is None:
        return (
            f"No method is advised, since no gradient can be held against a reference: {true.reason}. "
            "Look at the model's diagnosis."
        )
    if any(str(row["verdict"]).startswith(TOO_LOOSE) for row in rows):
        return (
            "No method is accurate here: those that are exact for the steps that were taken are off because the steps "
            "are too coarse. Tighten rtol and atol, or take smaller steps."
        )
    if any(str(row["verdict"]).startswith(UNDECIDED) for row in rows):
        return (
            f"No method is surely accurate: the reference is known to {true.error:.1e} only, and no method's error is "
            "surely below what is accurate. Tighten rtol and atol, and look at the model's diagnosis."
        )
    return "No method is accurate here: tighten rtol and atol, or look at the logarithmic norm of the dynamics."


def _seconds(row: Row) -> float:
    return float(row["forward_seconds"] + row["backward_seconds"])


def _fastest(good: Sequence[Row], told: Race | None) -> str:
    fast = min(good, key=_seconds)
    small = min((row for row in good if _seconds(row) <= PATIENCE * _seconds(fast)), key=lambda row: row["peak_bytes"])
    rank = "the fastest" if told is None or told.told_apart else f"among the fastest ({_tie(told)})"
    text = (
        f"Take {fast['gradient']}: of {len(good)} accurate methods it is {rank}, {_seconds(fast) * 1e3:.3g} ms per "
        f"gradient with an error of {fast['gradient_error']:.1e} and {fast['peak_bytes'] / 1e6:.3g} MB at the peak"
    )
    if small["gradient"] != fast["gradient"]:
        less, slower = fast["peak_bytes"] / small["peak_bytes"], _seconds(small) / _seconds(fast)
        text += (
            f"; where memory is short, {small['gradient']} needs {less:.2g} times less at {slower:.2g} times the time"
        )
    return text + "."


def _tie(told: Race) -> str:
    both = f"{told.first} and {told.second}"
    if told.same_within is not None:
        return f"{both} are the same within {max(told.same_within, 0.01):.0%}"
    if math.isnan(told.low):
        return f"{told.rounds} rounds are too few to tell {both} apart"
    ratio = f"{told.second} takes {told.low:.2f} to {told.high:.2f} times as long"
    return f"{told.rounds} rounds do not tell {both} apart: {ratio}"


def _why_not(rows: Sequence[Row], good: Sequence[Row], sensitivity: Callable[[], float | None], bounding: str) -> str:
    """Return why one of the two ways is wrong where the other one is right."""
    wrong = [row for row in rows if str(row["verdict"]).startswith("inaccurate")]
    replayed = [str(row["gradient"]) for row in wrong if row["exact"]]
    solved = [str(row["gradient"]) for row in wrong if not row["exact"]]
    right = [str(row["gradient"]) for row in good if not row["exact"]]
    changed = sensitivity() if replayed and right else None
    if changed is not None and changed > BLIND:
        return (
            f"{replayed[0]} is exact for the steps that were taken, and those steps are wrong for the gradient: the "
            "step control sees the state, which rests, and not the sensitivity (halving every step changes naive's "
            f"gradient by {changed:.0%}). The costate solve controls its own error and is right here. Take "
            f"{' or '.join(right[:2])}, or bound the steps: {bounding}."
        )
    if solved and any(row["exact"] for row in good):
        return f"The backward solve of {solved[0]} is off here; what keeps or replays the steps is right."
    return ""
