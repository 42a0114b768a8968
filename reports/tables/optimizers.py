"""Optimizers side by side: iterations and seconds until each is as good as a reference ever gets, seed by seed."""

import math

import numpy as np
import pandas as pd

from odegrad.catalogue import OPTIMIZERS
from odegrad.records.record import Status
from odegrad.reports.comparing import first_reached
from odegrad.reports.names import sort_key
from odegrad.reports.statistics import median, median_interval
from odegrad.reports.summary import KEY, Results, Source, rows_of
from odegrad.reports.tables.table import label

REFERENCE = OPTIMIZERS[0].name
"""The optimizer whose best is the target, where it ran; otherwise the first in the order of the tables."""
BY_VALIDATION, BY_METRIC = "validation loss", "metric"
_COUNTED = ("iterations", "seconds")
OPTIMIZER_COLUMNS = (
    *KEY, "optimizer", "reference", "quantity", "target",
    *(f"{name}_{part}" for name in _COUNTED for part in ("median", "low", "high", "ratio")),
    "n_reached", "n", "iteration_seconds", "peak_bytes",
)  # fmt: skip
_TAKEN = (
    *KEY, "optimizer", "status", "seed", "metric_higher_is_better", "peak_bytes",
    "trace_validation_loss", "trace_metric", "trace_iteration", "trace_seconds",
    "forward_seconds", "backward_seconds", "update_seconds",
)  # fmt: skip
"""Few columns of the records: reading a row takes as long as it has columns."""


def optimizers(frame: Source) -> pd.DataFrame:
    """Return one row a task, method and variant of every task on which several optimizers ran.

    Returns
    -------
    pandas.DataFrame
        ``target`` is the best of the reference over its training in the same seed (here the median over seeds):
        of the loss on the validation split where every run recorded it, otherwise of the metric. ``iterations`` and
        ``seconds`` until then: median over seeds, its exact interval (NaN from fewer than six) and median of the ratio
        to the reference in the same seed. Infinite where a run failed or never got there; ``n_reached`` of ``n`` did.
        ``iteration_seconds`` (an ordinary iteration) and ``peak_bytes`` are medians.
    """
    return Results.of(frame).once(_optimizers)


def _optimizers(results: Results) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    for _, runs in results.cells[list(_TAKEN)].groupby("task", sort=False):
        if len(set(runs["optimizer"])) > 1:
            rows += _of_task(runs)
    return pd.DataFrame(rows, columns=list(OPTIMIZER_COLUMNS))


def _of_task(runs: pd.DataFrame) -> list[dict[str, object]]:
    ok = runs[(runs["status"] == Status.OK) & runs["trace_metric"].notna()]
    validated = bool(len(ok)) and all(map(_is_numbers, ok["trace_validation_loss"]))
    column = "trace_validation_loss" if validated else "trace_metric"
    upwards = not validated and bool(ok["metric_higher_is_better"].iloc[0]) if len(ok) else False
    groups = sorted(runs.groupby(KEY), key=lambda item: sort_key(item[0][1], item[0][2]))
    reference, base = next((g for g in groups if (g[1]["optimizer"] == REFERENCE).all()), groups[0])
    targets = _best(base, column, upwards)
    counted = {key: _reached(group, column, targets, upwards) for key, group in groups}
    return [
        {
            **dict(zip(KEY, key, strict=True)),
            "optimizer": group["optimizer"].iloc[0],
            "reference": label(pd.Series(dict(zip(KEY, reference, strict=True)))),
            "quantity": BY_VALIDATION if validated else BY_METRIC,
            "target": median(targets.values()),
            **_statistics(counted[key], counted[reference]),
            "iteration_seconds": median(group["forward_seconds"] + group["backward_seconds"] + group["update_seconds"]),
            "peak_bytes": median(group["peak_bytes"].astype("float64")),
        }
        for key, group in groups
    ]


def _is_numbers(values: object) -> bool:
    return isinstance(values, np.ndarray) and bool(np.isfinite(values).any())


def _best(runs: pd.DataFrame, column: str, upwards: bool) -> dict[int, float]:
    """Return for each seed the best that a run of the reference reached."""
    best = np.nanmax if upwards else np.nanmin
    return {
        int(run.seed): float(best(getattr(run, column)))
        for run in rows_of(runs)
        if run.status == Status.OK and _is_numbers(getattr(run, column))
    }


def _reached(runs: pd.DataFrame, column: str, targets: dict[int, float], upwards: bool) -> pd.DataFrame:
    """Return iterations and seconds to the target of each seed that has one, a row a seed."""
    rows = {}
    for run in rows_of(runs):
        seed = int(run.seed)
        if seed not in targets:
            continue
        values = getattr(run, column)
        place = None
        if run.status == Status.OK and isinstance(values, np.ndarray):
            place = first_reached(values, targets[seed], upwards)
        rows[seed] = [math.inf, math.inf] if place is None else [run.trace_iteration[place], run.trace_seconds[place]]
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(_COUNTED), dtype="float64")


def _statistics(mine: pd.DataFrame, base: pd.DataFrame) -> dict[str, object]:
    found: dict[str, object] = {"n_reached": int(np.isfinite(mine["iterations"]).sum()), "n": len(mine)}
    for name in _COUNTED:
        interval = median_interval(mine[name])
        found[f"{name}_median"] = median(mine[name])
        found |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        found[f"{name}_ratio"] = median((mine[name] / base[name]).dropna())
    return found
