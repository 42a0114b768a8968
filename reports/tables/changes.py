"""What changed between two result sets: the same runs before and after."""

import json
import math
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from odegrad.records.columns import COLUMNS, Column, Compared
from odegrad.records.record import Run, Status
from odegrad.reports.machines import TIMINGS, unlike
from odegrad.reports.names import sort_key
from odegrad.reports.statistics import Floats, Interval, median, median_interval
from odegrad.reports.summary import KEY, cells

COMPARED_COLUMNS = tuple(c for c in COLUMNS if c.compared not in {Compared.NOT, Compared.BITS})
"""Columns whose values have a ratio, or a difference, that says something."""
_CONTENT = tuple(field.name for field in fields(Run) if field.name not in {"suite", "code"})
"""What makes two runs the same: all that they are but their suite and the fingerprint of a user's file."""
NOT_SAID = "not set"
_TIMES = frozenset(column.name for column in TIMINGS)
_BY_CHANCE = _TIMES | {c.name for c in COMPARED_COLUMNS if c.name == "metric_value" or c.name.startswith("trained_")}
"""What differs between two equal runs: times, and what a training comes to, in which rounding grows."""


@dataclass(frozen=True)
class Changes:
    """Two result sets compared."""

    table: pd.DataFrame
    """A row a task, method, variant and column: ``n`` pairs that ended ``ok`` on both sides, the medians ``before`` and
    ``after``, the median ``change`` of the pairs with its exact interval ``low, high``, NaN below six pairs (a ratio
    after/before; of the metric a difference), and ``verdict``: better, worse, changed, same or not decided."""
    statuses: pd.DataFrame
    """The runs that ended otherwise: ``task, method, variant, seed, before, after``."""
    common: int
    only_before: int
    only_after: int
    other_code: int = 0
    """Pairs whose method's or task's file differs."""
    differ: str = ""
    """Where no run is in both: in what they differ."""
    left_out: str = ""
    """Why times are not compared; empty if they are."""

    def sentences(self) -> list[str]:
        """Return the outcome in words."""
        said = [
            f"{self.common} run{' is' if self.common == 1 else 's are'} in both result sets, {self.only_before} only "
            f"before, {self.only_after} only after."
        ]
        if self.other_code:
            said.append(f"The user's own file of the method or task differs in {self.other_code} of them.")
        if self.differ:
            said.append(f"None can be compared: the sets differ in {self.differ}.")
        verdicts = self.table["verdict"].value_counts()
        told = [f"{verdicts[v]} {v}" for v in ("better", "worse", "changed", "same", "not decided") if v in verdicts]
        if told:
            said.append(f"Of {len(self.table)} comparisons: {', '.join(told)}.")
        if len(self.statuses):
            said.append(f"{len(self.statuses)} runs ended otherwise than before.")
        return [*said, *([self.left_out] if self.left_out else [])]


def changes(before: pd.DataFrame, after: pd.DataFrame, across_machines: bool = False) -> Changes:
    """Return what changed from one result set to another.

    Parameters
    ----------
    before, after
        Records from ``odegrad.reports.frame.load``. The same run is a pair whatever its machine, version and suite, and
        whatever became of a user's own file in between.
    across_machines
        Compare times even if the sets come from unlike machines.

    Returns
    -------
    Changes
        A deterministic value that differs in one pair alone is a change. Times, and what a training comes to, change
        where the interval of the median does not hold "no change": from six pairs on, wrongly in at most 5 % of
        comparisons of equal runs.
    """
    machines = unlike(pd.concat([before[["machine"]], after[["machine"]]]))
    refused = len(machines) > 1 and not across_machines
    columns = [c for c in COMPARED_COLUMNS if not (refused and c.name in _TIMES)]
    first, second = cells(before), cells(after)
    first, second = first.assign(pair=_names(first)), second.assign(pair=_names(second))
    pairs = first.merge(second, on="pair", suffixes=("_before", "_after"))
    for name in (*KEY, "seed"):
        pairs[name] = pairs[f"{name}_after"]
    ended = pairs["status_before"] != pairs["status_after"]
    statuses = pairs.loc[ended, [*KEY, "seed", "status_before", "status_after"]]
    fine = pairs[(pairs["status_before"] == Status.OK) & (pairs["status_after"] == Status.OK)]
    rows = [
        dict(zip(KEY, key, strict=True)) | row
        for key, group in fine.groupby(KEY)
        for row in (_row(column, group) for column in columns)
        if row["n"]
    ]
    rows.sort(key=lambda row: (row["task"], sort_key(row["method"], row["variant"])))
    names = [*KEY, "column", "unit", "n", "before", "after", "change", "low", "high", "verdict"]
    reason = (
        f"Times are not compared: the sets come from unlike machines ({'; '.join(machines)}); --across-machines "
        "compares them."
    )
    return Changes(
        table=pd.DataFrame(rows, columns=names),
        statuses=statuses.rename(columns={"status_before": "before", "status_after": "after"}).reset_index(drop=True),
        common=len(pairs),
        only_before=len(first) - len(pairs),
        only_after=len(second) - len(pairs),
        other_code=int((pairs["code_before"].fillna("") != pairs["code_after"].fillna("")).sum()),
        differ="" if len(pairs) else _differences(first, second),
        left_out=reason if refused else "",
    )


def _names(runs: pd.DataFrame) -> list[str]:
    """Return what each run is, as text; runs of a set that are the same but for suite or file are numbered."""
    seen: dict[str, int] = {}
    names = []
    for row in runs[list(_CONTENT)].astype("object").to_numpy():
        name = json.dumps([None if _missing(value) else value for value in row], sort_keys=True, default=str)
        seen[name] = seen.get(name, 0) + 1
        names.append(f"{name} {seen[name]}")
    return names


def _missing(value: object) -> bool:
    return not isinstance(value, (list, tuple, dict, np.ndarray)) and bool(pd.isna(value))


def _differences(first: pd.DataFrame, second: pd.DataFrame) -> str:
    """Return the fields whose values the sets do not share: ``rtol (0.001 / 1e-05)``."""
    told = []
    for name in _CONTENT:
        before, after = (
            [v for v in dict.fromkeys(str(v) for v in runs[name].dropna()) if v] for runs in (first, second)
        )
        if not set(before) & set(after) and (before or after):
            told.append(f"{name} ({', '.join(before) or NOT_SAID} / {', '.join(after) or NOT_SAID})")
    return "; ".join(told) or "how their fields are combined"


def _row(column: Column, group: pd.DataFrame) -> dict[str, object]:
    old, new = (group[f"{column.name}_{side}"].astype("float64").to_numpy(dtype=float) for side in ("before", "after"))
    both = ~(np.isnan(old) | np.isnan(new))
    old, new = old[both], new[both]
    with np.errstate(divide="ignore", invalid="ignore"):
        change = new - old if column.name == "metric_value" else np.where(old == new, 1.0, new / old)
    change = np.where(old == new, 0.0 if column.name == "metric_value" else 1.0, change)  # also of equal infinities
    interval = median_interval(change)
    upwards = column.higher_is_better
    if column.name == "metric_value":
        known = group["metric_higher_is_better_after"].dropna()
        upwards = bool(known.iloc[0]) if len(known) else None
    return {
        "column": column.name, "unit": column.unit, "n": int(both.sum()), "before": median(old), "after": median(new),
        "change": median(change), "low": interval.low, "high": interval.high,
        "verdict": _verdict(column, change, interval, upwards),
    }  # fmt: skip


def _verdict(column: Column, change: Floats, interval: Interval, upwards: bool | None) -> str:
    nothing = 0.0 if column.name == "metric_value" else 1.0
    if (change == nothing).all():
        return "same"
    low, high = interval.low, interval.high
    if column.name not in _BY_CHANCE:
        low, high = change.min(), change.max()
        if low < nothing < high:
            return "changed"
    elif math.isnan(low) or low <= nothing <= high:
        return "not decided"
    if upwards is None:
        return "changed"
    return "better" if (high > nothing) == upwards else "worse"
