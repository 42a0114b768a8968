"""Memory against depth, the accepted steps of a solve: measured, and as the method predicts it."""

import json

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from odegrad.reports import units
from odegrad.reports.canvas import style
from odegrad.reports.canvas.panels import by_task
from odegrad.reports.names import sort_key
from odegrad.reports.summary import Results, Source, rows_of

TITLE = "Peak memory against depth"
SETTING = ("solver", "solver_options", "rtol", "atol")
"""What makes a solve deeper; seeds share a median."""
_MEASURED, _PREDICTED = "peak_bytes", "predicted_peak_bytes"


def points_of(frame: Source) -> pd.DataFrame:
    """Return a row a task, method and setting of the solver, medians over seeds: ``steps`` and the bytes.

    Columns ``task, method, steps, peak_bytes, predicted_peak_bytes``. Methods with one depth are left out.
    """
    ok = Results.of(frame).ok
    ok = ok[ok["accepted_steps"].notna() & ok[_MEASURED].notna()]
    setting = [json.dumps(list(row), sort_keys=True, default=str) for row in ok[list(SETTING)].itertuples(index=False)]
    numbers = {name: ok[name].astype("float64") for name in (_MEASURED, _PREDICTED)}
    rows = ok[["task", "method"]].assign(setting=setting, steps=ok["accepted_steps"].astype("float64"), **numbers)
    medians = rows.groupby(["task", "method", "setting"], sort=False, as_index=False).median()
    depths = medians.groupby(["task", "method"], sort=False)["steps"].transform("nunique")
    kept = medians[(depths > 1) & (medians["steps"] > 0)].drop(columns="setting")
    order = kept["method"].map(sort_key)
    return kept.assign(order=order).sort_values(["task", "order", "steps"]).drop(columns="order").reset_index(drop=True)


def exponent(points: pd.DataFrame, column: str) -> float:
    """Return the slope of log bytes against log steps (least squares); NaN where bytes are not known: 1 is O(n)."""
    known = points[points[column] > 0]
    if known["steps"].nunique() < 2:
        return float("nan")
    return float(np.polyfit(np.log(known["steps"]), np.log(known[column]), 1)[0])


def draw(frame: Source, columns: int = 2) -> Figure:
    """Return the figure: a panel a task, a line a method on logarithmic axes; what the method predicts is dotted.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``, of solves of several depths.
    columns
        1 or 2: columns of a page that the figure spans.

    Returns
    -------
    matplotlib.figure.Figure
        Lines carry the ``gid`` ``peak_bytes`` or ``predicted_peak_bytes``.
    """
    points = points_of(frame)
    with style.applied():
        if points.empty:
            return style.nothing_to_draw(columns, "solves of several depths")
        labels = [(str(method), "") for method in sorted(set(points["method"]), key=sort_key)]
        return by_task(
            style.tasks(points), labels, columns, lambda axis, task: _panel(axis, points[points["task"] == task])
        )


def describe(frame: Source) -> str:
    """Return the figure in words, for readers who cannot see it."""
    parts = []
    for (task, method), rows in points_of(frame).groupby(["task", "method"], sort=False):
        first, *_, last = list(rows_of(rows))
        measured, predicted = (round(exponent(rows, column), 2) + 0.0 for column in (_MEASURED, _PREDICTED))  # no -0.0
        as_predicted = "" if np.isnan(predicted) else f", as predicted to the {predicted:.2f}"
        parts.append(
            f"{task}, {method}: {units.memory(first.peak_bytes)} at {units.count(first.steps)} steps to "
            f"{units.memory(last.peak_bytes)} at {units.count(last.steps)}, growing like steps to the {measured:.2f}"
            f"{as_predicted}"
        )
    return f"{TITLE}. {'. '.join(parts) or 'No method has solves of several depths'}."


def _panel(axis: Axes, points: pd.DataFrame) -> None:
    for method, rows in points.groupby("method", sort=False):
        look = style.line_style(str(method))
        axis.plot(rows["steps"], rows[_MEASURED], gid=_MEASURED, **look)
        if rows[_PREDICTED].notna().any():
            axis.plot(rows["steps"], rows[_PREDICTED], color=look["color"], linestyle=":", marker="", gid=_PREDICTED)
    style.log_axis(axis.xaxis, points["steps"], "accepted steps", lambda value: f"{value:g}")
    every = pd.concat([points[_MEASURED], points[_PREDICTED]]).dropna()
    style.log_axis(axis.yaxis, every[every > 0], "peak bytes (dotted: predicted)", units.memory)
