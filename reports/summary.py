"""From records to one row a task and method: medians over the seeds of the runs that ended ``ok``."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from odegrad.record import Status
from odegrad.reports.names import methods, sort_key, variants
from odegrad.reports.statistics import bootstrap_interval, median

MEDIANS = (
    "metric_value",
    "metric_target",
    "metric_limit",
    "nfe_forward",
    "nfe_backward",
    "nfe_tap",
    "vjps",
    "gradient_relative_error",
    "gradient_method_error",
    "gradient_cosine",
    "trained_nfe_forward",
    "trained_nfe_backward",
    "trained_gradient_relative_error",
    "trained_gradient_method_error",
    "peak_bytes",
    "saved_bytes",
    "forward_seconds",
    "backward_seconds",
    "update_seconds",
    "train_seconds",
)
"""Columns of a record that the summary holds as medians over seeds, in the unit of the record."""


def rows_of(table: pd.DataFrame) -> Iterator[Any]:
    """Yield the rows of a table; columns are attributes."""
    yield from table.itertuples()


def gap(row: Any) -> float:
    """Return how far a row's metric is behind its limit (below 0 where chance put it ahead); NaN if none is known."""
    distance = float(row.metric_value - row.metric_limit)
    upwards = not pd.isna(row.metric_higher_is_better) and bool(row.metric_higher_is_better)
    return -distance if upwards else distance


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the records with ``method`` filled, and ``variant``: what tells unlike runs of a method apart."""
    return frame.assign(method=methods(frame), variant=variants(frame), task=frame["task"].fillna("").astype("string"))


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row a (task, method, variant), by task and then in the order of methods.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``.

    Returns
    -------
    pandas.DataFrame
        ``task, method, variant, metric_name, metric_higher_is_better``, ``MEDIANS`` (medians over the seeds that
        ended ``ok``; NaN if none did), ``metric_low, metric_high`` (95 % bootstrap interval of the median),
        ``n_ok, n`` (runs that ended ``ok``, all runs) and ``failures`` (``2 diverged, 1 timeout``; empty if none).
    """
    rows = [_row(key, group) for key, group in cells(frame).groupby(["task", "method", "variant"])]
    rows.sort(key=lambda row: (row["task"], sort_key(row["method"]), row["variant"]))
    names = ("task", "method", "variant", "metric_name", "metric_higher_is_better", *MEDIANS)
    table = pd.DataFrame(rows, columns=[*names, "metric_low", "metric_high", "n_ok", "n", "failures"])
    text = dict.fromkeys(("task", "method", "variant", "metric_name", "failures"), "string")
    numbers = dict.fromkeys((*MEDIANS, "metric_low", "metric_high"), "float64")
    return table.astype(text | numbers | {"n_ok": "int64", "n": "int64", "metric_higher_is_better": "boolean"})


def failures(frame: pd.DataFrame) -> pd.DataFrame:
    """Return every run that did not end ``ok``: ``task, method, variant, seed, status, message, run_id``."""
    every = cells(frame)
    failed = every[every["status"] != Status.OK]
    failed = failed.assign(message=failed["message"].fillna(""), order=failed["method"].map(sort_key))
    columns = ["task", "method", "variant", "seed", "status", "message", "run_id"]
    return failed.sort_values(["task", "order", "variant", "seed"])[columns].reset_index(drop=True)


def _row(key: Any, group: pd.DataFrame) -> dict[str, Any]:
    ok = group[group["status"] == Status.OK]
    interval = bootstrap_interval(ok["metric_value"])
    ended = group["status"].value_counts().drop(str(Status.OK), errors="ignore")
    return {
        **dict(zip(("task", "method", "variant"), key, strict=True)),
        "metric_name": _first(group["metric_name"]),
        "metric_higher_is_better": _first(group["metric_higher_is_better"]),
        **{name: median(ok[name].astype("float64")) for name in MEDIANS},
        "metric_low": interval.low,
        "metric_high": interval.high,
        "n_ok": len(ok),
        "n": len(group),
        "failures": ", ".join(f"{number} {status}" for status, number in sorted(ended.items())),
    }


def _first(values: pd.Series) -> Any:
    """Return the first value that is there, or NA."""
    kept = values.dropna()
    return kept.iloc[0] if len(kept) else pd.NA
