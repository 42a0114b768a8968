"""From records to one row a task and method: medians over the seeds of the runs that ended ``ok``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeAlias, TypeVar

import pandas as pd

from odegrad.records.columns import COLUMNS
from odegrad.records.record import TUNING, Status
from odegrad.reports.names import methods, sort_key, variants
from odegrad.reports.statistics import median_interval

MEDIANS = tuple(column.name for column in COLUMNS if column.summarised)
"""Columns of a record that the summary holds as medians over seeds, in the unit of the record."""

KEY = ["task", "method", "variant"]
"""What makes a row of the summary."""
_ROW = ["status", "metric_value", "metric_name", "metric_higher_is_better"]

Computed = TypeVar("Computed")


def rows_of(table: pd.DataFrame) -> Iterator[Any]:
    """Yield the rows of a table; columns are attributes."""
    yield from table.itertuples()


def gap(row: Any) -> float:
    """Return how far a row's metric is behind its limit (below 0 where chance put it ahead); NaN if none is known."""
    distance = float(row.metric_value - row.metric_limit)
    upwards = not pd.isna(row.metric_higher_is_better) and bool(row.metric_higher_is_better)
    return -distance if upwards else distance


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the records that count, with ``method`` filled, and ``variant``: what tells unlike runs of it apart.

    Trials that choose settings (stage ``tuning``) are left out: ``odegrad.reports.tables.tuning`` shows them.
    """
    trials = frame["stage"].fillna("") == TUNING
    counted = (frame[~trials] if trials.any() else frame).reset_index(drop=True)
    names = {"method": methods(counted), "task": counted["task"].fillna("").astype("string")}
    return counted.assign(variant=variants(counted), **names)


@dataclass(frozen=True, eq=False)
class Results:
    """A result set with what every figure needs of it, each part computed once, on first use."""

    frame: pd.DataFrame
    """Records from ``odegrad.reports.frame.load``; they must not change afterwards."""

    @classmethod
    def of(cls, source: "pd.DataFrame | Results") -> Self:
        """Return ``source`` as results."""
        return source if isinstance(source, cls) else cls(source)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Return ``cells`` of the records."""
        return cells(self.frame)

    @cached_property
    def ok(self) -> pd.DataFrame:
        """Return the cells that ended ``ok``, by task, method, variant and seed, as figures draw them."""
        ok = self.cells[self.cells["status"] == Status.OK]
        return _in_order(ok)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Return ``summary`` of the records."""
        return _summary(self.cells)

    @cached_property
    def failures(self) -> pd.DataFrame:
        """Return ``failures`` of the records."""
        return _failures(self.cells)

    def once(self, compute: "Callable[[Results], Computed]") -> "Computed":
        """Return ``compute(self)``, computed on first use and kept; nobody may change it."""
        kept: dict[object, Any] = self.__dict__.setdefault("_kept", {})
        if compute not in kept:
            kept[compute] = compute(self)
        found: Computed = kept[compute]
        return found

    def without_records(self) -> "Results":
        """Return the same results for figures alone: each part computed, and no records beside them."""
        part = Results(self.frame.iloc[:0])
        part.__dict__.update({name: getattr(self, name) for name in ("cells", "ok", "table")})
        return part

    def of_tasks(self, tasks: list[str]) -> "Results":
        """Return the results on those tasks alone."""
        part = Results(self.frame)
        for name in ("cells", "ok", "table"):
            whole = getattr(self, name)
            part.__dict__[name] = whole[whole["task"].isin(tasks)]
        return part


Source: TypeAlias = pd.DataFrame | Results
"""What tables and figures take: records from ``odegrad.reports.frame.load``, or results made of them once."""


def summary(frame: Source) -> pd.DataFrame:
    """Return one row a (task, method, variant), by task and then in the order of methods.

    Returns
    -------
    pandas.DataFrame
        ``task, method, variant, metric_name, metric_higher_is_better``, ``MEDIANS`` (medians over the seeds that
        ended ``ok``; NaN if none did), ``metric_low, metric_high`` (exact interval of the median, NaN
        from fewer than six),
        ``n_ok, n`` (runs that ended ``ok``, all runs) and ``failures`` (``2 diverged, 1 timeout``; empty if none).
    """
    return Results.of(frame).table


def failures(frame: Source) -> pd.DataFrame:
    """Return every run that did not end ``ok``: ``task, method, variant, seed, status, message, run_id``."""
    return Results.of(frame).failures


def _failures(every: pd.DataFrame) -> pd.DataFrame:
    failed = every[every["status"] != Status.OK]
    failed = failed.assign(message=failed["message"].fillna(""))
    columns = ["task", "method", "variant", "seed", "status", "message", "run_id"]
    return _in_order(failed)[columns].reset_index(drop=True)


def _in_order(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs by task, method, variant and seed."""
    names = list(zip(runs["method"], runs["variant"], strict=True))
    places = {name: place for place, name in enumerate(sorted(set(names), key=lambda name: sort_key(*name)))}
    ordered = runs.assign(order=[places[name] for name in names]).sort_values(["task", "order", "seed"])
    return ordered.drop(columns="order")


def _summary(every: pd.DataFrame) -> pd.DataFrame:
    values = every[list(MEDIANS)].astype("float64").where(every["status"] == Status.OK)
    keys = [every[name] for name in KEY]
    medians = values.groupby(keys).median()
    rows = [
        {**dict(zip(KEY, key, strict=True)), **_row(group), **dict(zip(MEDIANS, middle, strict=True))}
        for (key, group), middle in zip(every[[*KEY, *_ROW]].groupby(KEY), medians.to_numpy(), strict=True)
    ]
    rows.sort(key=lambda row: (row["task"], sort_key(row["method"], row["variant"])))
    names = (*KEY, "metric_name", "metric_higher_is_better", *MEDIANS)
    table = pd.DataFrame(rows, columns=[*names, "metric_low", "metric_high", "n_ok", "n", "failures"])
    text = dict.fromkeys((*KEY, "metric_name", "failures"), "string")
    numbers = dict.fromkeys((*MEDIANS, "metric_low", "metric_high"), "float64")
    return table.astype(text | numbers | {"n_ok": "int64", "n": "int64", "metric_higher_is_better": "boolean"})


def _row(group: pd.DataFrame) -> dict[str, object]:
    ok = group["status"] == Status.OK
    interval = median_interval(group["metric_value"][ok])
    ended = group["status"][~ok].value_counts()
    return {
        "metric_name": _first(group["metric_name"]),
        "metric_higher_is_better": _first(group["metric_higher_is_better"]),
        "metric_low": interval.low,
        "metric_high": interval.high,
        "n_ok": int(ok.sum()),
        "n": len(group),
        "failures": ", ".join(f"{number} {status}" for status, number in sorted(ended.items())),
    }


def _first(values: pd.Series) -> object:
    """Return the first value that is there, or NA."""
    kept = values.dropna()
    return kept.iloc[0] if len(kept) else pd.NA
