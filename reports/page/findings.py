"""What a result set says, in plain sentences with their numbers: no ranking without the value behind it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from odegrad.records.record import Status
from odegrad.reports import units
from odegrad.reports.names import joined
from odegrad.reports.summary import Results, Source, rows_of, summary
from odegrad.reports.tables.table import label


@dataclass(frozen=True)
class Finding:
    """One sentence: what is compared, who is first and with which value, and who is last."""

    what: str
    best: str
    value: str
    rest: str


def outcome(source: Source) -> str:
    """Return how many runs there are and how they ended; trials that choose settings are not counted."""
    frame = Results.of(source).cells
    failed = int((frame["status"] != Status.OK).sum())
    if frame.empty:
        return "There is no run yet."
    runs = f"{len(frame)} run{'s' if len(frame) > 1 else ''}"
    if not failed:
        return f"{runs}, all ended ok."
    if failed == len(frame):
        return f"{runs}, none ended ok; their reasons are below."
    return f"{runs}; {failed} failed, with the reason below, and are in no median."


def findings(frame: Source) -> dict[str, list[Finding]]:
    """Return for each task the best metric, the fastest training and iteration, the least errors and memory.

    Medians over seeds. Methods whose values read the same at the digits shown share the place: a difference that the
    table does not show is not called one. Quantities that no run measured are left out.
    """
    table = summary(frame)
    table = table.assign(
        iteration=table[["forward_seconds", "backward_seconds", "update_seconds"]].sum(axis=1, skipna=False)
    )
    return {str(task): _of_task(rows) for task, rows in table[table["n_ok"] > 0].groupby("task", sort=False)}


def _of_task(rows: pd.DataFrame) -> list[Finding]:
    names, higher = rows["metric_name"].dropna(), rows["metric_higher_is_better"].dropna()
    metric = names.iloc[0] if len(names) else "metric"
    upwards = bool(higher.iloc[0]) if len(higher) else True
    found = [
        _extreme(rows, "metric_value", f"Best {metric}", upwards=upwards),
        _extreme(rows, "train_seconds", "Fastest training"),
        _extreme(rows, "iteration", "Fastest iteration (forward + backward + update)", units.seconds),
        _extreme(rows, "gradient_relative_error", "Smallest gradient error before training"),
        _extreme(rows, "trained_gradient_relative_error", "Smallest gradient error after training"),
        _extreme(rows, "peak_bytes", "Least peak memory"),
    ]
    return [finding for finding in found if finding is not None]


def _extreme(
    rows: pd.DataFrame, column: str, what: str, shown: Callable[[Any], str] | None = None, upwards: bool = False
) -> Finding | None:
    """Return who is first in a column, written as records say unless ``shown`` does; None where nobody measured it."""
    text = shown or partial(units.of_column, column)
    measured = [row for row in rows_of(rows) if math.isfinite(getattr(row, column))]
    if not measured:
        return None
    ordered = sorted(measured, key=lambda row: float(getattr(row, column)), reverse=upwards)
    best, worst = (text(getattr(row, column)) for row in (ordered[0], ordered[-1]))
    first, last = (joined(label(row) for row in measured if text(getattr(row, column)) == end) for end in (best, worst))
    if len(measured) == 1:
        rest = "the only one measured"
    elif best == worst:
        rest = "the same for all"
    else:
        rest = f"last: {last}, {worst}"
    return Finding(what, first, best, rest)
