"""Whose times compare: records of unlike machines keep their counts, bytes and errors, but not their seconds."""

import logging
from typing import Any

import pandas as pd

from odegrad.records.columns import COLUMNS
from odegrad.reports.units import WIDE

HARDWARE = ("cpu", "cores", "logical_cores", "gpu", "threads")
"""What of a record's machine makes its times unlike those of another; versions do not, they are what one compares."""

TIMINGS = tuple(column for column in COLUMNS if column.measured and not column.deterministic and column.unit == "s")
"""Columns that hold times."""
_log = logging.getLogger(__name__)


def hardware(machine: Any) -> tuple[object, ...] | None:
    """Return what decides the times of a record's machine, or None where the record does not say."""
    known = isinstance(machine, dict) and any(machine.get(key) is not None for key in HARDWARE)
    return tuple(machine.get(key) for key in HARDWARE) if known else None


def unlike(frame: pd.DataFrame) -> list[str]:
    """Return the unlike machines of a frame in words; one or none if its times compare."""
    every = dict.fromkeys(found for found in map(hardware, frame["machine"]) if found is not None)
    return [
        ", ".join(f"{key} {value}" for key, value in zip(HARDWARE, each, strict=True) if value is not None)
        for each in every
    ]


def without_times(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with every time missing where its records come from unlike machines, and log why."""
    found = unlike(frame)
    if len(found) < 2:
        return frame
    _log.warning(
        "these records come from %d unlike machines (%s): their times are left out, since times do not compare across "
        "machines; --across-machines (across_machines=True) keeps them",
        len(found), "; ".join(found),
    )  # fmt: skip
    empty = {c.name: float("nan") if c.dtype == "float64" else pd.Series(None, frame.index, "object") for c in TIMINGS}
    return frame.assign(**empty)


def disturbed(runs: pd.DataFrame) -> str:
    """Return how many runs' times are rough, and why: what disturbed them, or a wide interval; empty if none are."""
    taints = runs["taints"].fillna("")
    wide = (runs["time_relative_interval"].astype("float64") > WIDE).fillna(value=False)
    kinds = [
        [*filter(None, str(taint).split(",")), *(["wide interval"] if is_wide else [])]
        for taint, is_wide in zip(taints, wide, strict=True)
    ]
    hit = [each for each in kinds if each]
    words = dict.fromkeys(word for each in hit for word in each)
    if not hit:
        return ""
    return (
        f"Times of {len(hit)} of {len(kinds)} runs are rough ({', '.join(words)}): take them, and what is told from "
        "them, for no more; measure again on an idle machine (odegrad doctor says what disturbs)."
    )
