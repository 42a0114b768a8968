"""Trials that choose settings: their options, what they reached on the validation split, and which was chosen."""

import json
from typing import Any

import pandas as pd

from odegrad.record import TUNING, Status
from odegrad.reports.names import methods, sort_key
from odegrad.reports.statistics import median

GROUP = ["task", "size", "method", "gradient", "optimizer", "solver"]
"""Within it the trials compete."""
OPTIONS = ("optimizer_options", "gradient_options", "solver_options")
COLUMNS = (*GROUP, "options", "metric_name", "metric_value", "n_ok", "n", "chosen")


def trials(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row a group and options tried.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``.

    Returns
    -------
    pandas.DataFrame
        ``GROUP``, ``options`` (all of them as text), ``metric_name``, ``metric_value`` (the median over seeds on the
        validation split; NaN if no trial ended ``ok``), ``n_ok``, ``n`` and ``chosen``: the best of its group among
        the options of which no trial failed, or if each had failures, among those with the fewest. The first wins a
        tie.
    """
    tried = frame[frame["stage"].fillna("") == TUNING]
    tried = tried.assign(method=methods(tried), options=[_text(tried, place) for place in range(len(tried))])
    rows = [_row(key, group) for key, group in tried.groupby([*GROUP, "options"], sort=False)]
    for group in _groups(rows):
        finished = [row for row in group if row["n_ok"] and row["metric_value"] == row["metric_value"]]
        if finished:
            min(finished, key=lambda row: (row["n"] - row["n_ok"], row["loss"]))["chosen"] = True
    rows.sort(key=lambda row: (row["task"], sort_key(row["method"]), row["optimizer"], row["solver"]))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(key: Any, group: pd.DataFrame) -> dict[str, Any]:
    ok = group[group["status"] == Status.OK]
    names, upwards = ok["metric_name"].dropna(), ok["metric_higher_is_better"].dropna()
    value = median(ok["metric_value"])
    better = not len(upwards) or bool(upwards.iloc[0])
    return {
        **dict(zip([*GROUP, "options"], key, strict=True)),
        "metric_name": names.iloc[0] if len(names) else "",
        "metric_value": value,
        "loss": -value if better else value,
        "n_ok": len(ok),
        "n": len(group),
        "chosen": False,
    }


def _groups(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in GROUP), []).append(row)
    return list(groups.values())


def _text(frame: pd.DataFrame, place: int) -> str:
    """Return all options of a trial as ``lr=0.01, momentum=0.9``."""
    options: dict[str, Any] = {}
    for name in OPTIONS:
        options |= frame[name].iloc[place] or {}
    return (
        ", ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in sorted(options.items())) or "default"
    )
