"""Trials that choose settings: their options, what they reached on the validation split, and which was chosen."""

import json
from typing import Any

import numpy as np
import pandas as pd

from odegrad.records.record import TUNING, Status
from odegrad.reports.names import methods, sort_key
from odegrad.reports.statistics import finite, median

GROUP = ["task", "size", "method", "gradient", "optimizer", "solver"]
"""Within it the trials compete."""
_OPTIONS = ("optimizer_options", "gradient_options", "solver_options", "regulariser_options")
TRIAL_COLUMNS = (*GROUP, "options", "metric_name", "metric_value", "validation_loss", "n_ok", "n", "chosen")


def trials(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row a group and options tried, from records as ``odegrad.reports.frame.load`` returns them.

    Returns
    -------
    pandas.DataFrame
        ``GROUP``, ``options`` (all of them as text), ``metric_name``, ``metric_value`` (the median over seeds on the
        validation split; NaN if no trial ended ``ok``), ``validation_loss`` (the least on the way, median over seeds;
        NaN where it was not recorded), ``n_ok``, ``n`` and ``chosen``: whether the runs that count have these options.
    """
    tuning = frame["stage"].fillna("") == TUNING
    if not tuning.any():
        return pd.DataFrame(columns=list(TRIAL_COLUMNS))
    named = frame.assign(method=methods(frame), options=_texts(frame))
    counted = set(map(tuple, named[~tuning][[*GROUP, "options"]].drop_duplicates().to_numpy()))
    rows = [
        _row(key, group) | {"chosen": tuple(key) in counted}
        for key, group in named[tuning].groupby([*GROUP, "options"], sort=False)
    ]
    rows.sort(key=lambda row: (row["task"], sort_key(row["method"]), row["optimizer"], row["solver"]))
    return pd.DataFrame(rows, columns=list(TRIAL_COLUMNS))


def _row(key: Any, group: pd.DataFrame) -> dict[str, Any]:
    ok = group[group["status"] == Status.OK]
    names = ok["metric_name"].dropna()
    return {
        **dict(zip([*GROUP, "options"], key, strict=True)),
        "metric_name": names.iloc[0] if len(names) else "",
        "metric_value": median(ok["metric_value"]),
        "validation_loss": median(_least(losses) for losses in ok["trace_validation_loss"]),
        "n_ok": len(ok),
        "n": len(group),
    }


def _least(losses: object) -> float:
    known = finite(losses if isinstance(losses, np.ndarray) else [])
    return float(known.min()) if known.size else float("nan")


def _texts(frame: pd.DataFrame) -> list[str]:
    """Return all options of every run as ``lr=0.01, momentum=0.9``."""
    texts = []
    for parts in zip(*(frame[name] for name in _OPTIONS), strict=True):
        options = {name: value for part in parts for name, value in (part or {}).items()}
        shown = (f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in sorted(options.items()))
        texts.append(", ".join(shown) or "default")
    return texts
