"""Gradient error against what it costs: time of one forward and backward pass, and peak memory."""

import math
import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from odegrad.reports import units
from odegrad.reports.figures import style
from odegrad.reports.names import joined, short, sort_key
from odegrad.reports.summary import rows_of, summary
from odegrad.reports.tables import label

ERRORS = {
    "gradient_relative_error": "gradient error\n(relative, float64 reference)",
    "trained_gradient_relative_error": "gradient error after training\n(relative, float64 reference)",
    "gradient_method_error": "method error\n(relative, naive on the same grid)",
}
"""Columns that can stand on the error axis, and what the axis says."""

TITLES = {
    "gradient_relative_error": "Gradient error at the initial parameters against time and memory",
    "trained_gradient_relative_error": "Gradient error at the trained parameters against time and memory",
    "gradient_method_error": "The method's own share of the gradient error against time and memory",
}
COSTS = {"seconds": "forward + backward time", "peak_bytes": "peak memory"}
NOTE_WIDTH = 40
"""Characters of a line beneath a panel."""


def draw(frame: pd.DataFrame, columns: int = 2, error: str = "gradient_relative_error") -> Figure:
    """Return the figure: a row a task, error over time and error over memory, both axes logarithmic.

    A logarithmic axis has no zero: an error of exactly 0 is drawn at a floor, a decade below the least other error,
    and the floor is labelled ``exactly 0``. What is not finite, or was not measured, is named beneath the first panel.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``.
    columns
        1 or 2: columns of a page that the figure spans.
    error
        One of ``ERRORS``.

    Returns
    -------
    matplotlib.figure.Figure
        One line a method with medians over seeds; points of one method (a sweep over tolerances) are joined.
    """
    table = _points(frame, error)
    with style.applied():
        if not table["drawn"].any():
            return style.nothing_to_draw(columns, "its gradient error")
        tasks = style.tasks(table[table["drawn"]])
        figure, grid = style.grid(len(tasks), 2, columns, height=2.5)
        for task, axes in zip(tasks, grid, strict=True):
            rows = table[table["task"] == task]
            for axis, cost in zip(axes, COSTS, strict=True):
                panel(axis, rows, cost, error)
                axis.set_title(style.drawable(task))
            name_missing(axes[0], rows)
        style.legend(figure, [(m, "") for m in sorted(set(table["method"][table["drawn"]]), key=sort_key)], columns)
        return figure


def describe(frame: pd.DataFrame, error: str = "gradient_relative_error") -> str:
    """Return the figure in words, for readers who cannot see it."""
    table = _points(frame, error)
    table = table[table["drawn"]]
    parts = []
    for task in style.tasks(table):
        points = [
            f"{label(r)} {units.error(r.error)} in {units.seconds(r.seconds)} and {units.memory(r.peak_bytes)}"
            for r in rows_of(table[table["task"] == task])
        ]
        parts.append(f"{task}: {'; '.join(points)}")
    return f"{TITLES[error]}, logarithmic axes. {'. '.join(parts) or 'No finished run'}."


def floor(errors: pd.Series) -> float:
    """Return where an error of zero is drawn: a decade below the least positive one, rounded down to a power of ten."""
    positive = errors[(errors > 0) & (errors < math.inf)]
    return float(10.0 ** (math.floor(math.log10(positive.min())) - 1)) if len(positive) else 1e-16


def _points(frame: pd.DataFrame, error: str) -> pd.DataFrame:
    table = summary(frame)
    table = table.assign(seconds=table["forward_seconds"] + table["backward_seconds"], error=table[error])
    return table.assign(drawn=(table["error"] >= 0) & (table["error"] < math.inf))


def panel(axis: Axes, rows: pd.DataFrame, cost: str, error: str) -> None:
    """Draw the ``error`` of ``rows`` over ``cost``; ``drawn`` says which rows have both."""
    drawn = rows[rows["drawn"] & (rows[cost] > 0)]
    if drawn.empty:
        axis.set(xlabel=COSTS[cost], ylabel=ERRORS[error])
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center")
        return
    bottom = floor(drawn["error"])
    heights = drawn["error"].where(drawn["error"] > 0, bottom)
    for method, points in drawn.assign(height=heights).groupby("method", sort=False):
        ordered = points.sort_values(cost)
        axis.plot(ordered[cost], ordered["height"], **style.line_style(str(method)))
    suited = units.seconds_unit if cost == "seconds" else units.memory_unit
    scale, unit = suited(float(drawn[cost].max()))
    style.log_axis(axis.xaxis, drawn[cost], f"{COSTS[cost]} ({unit})", lambda value: f"{value / scale:g}")
    exact = bool((drawn["error"] == 0).any())
    style.log_axis(
        axis.yaxis, heights, ERRORS[error],
        lambda value: "exactly 0" if exact and math.isclose(value, bottom) else f"{value:.0e}",
    )  # fmt: skip
    if exact:
        axis.axhline(bottom, color=style.GREY, linewidth=1.0, linestyle=":", zorder=1, gid="floor")


def name_missing(axis: Axes, rows: pd.DataFrame) -> None:
    """Name beneath ``axis`` the methods of its task that lack an error or a cost."""
    lacking = rows[~(rows["drawn"] & (rows[list(COSTS)] > 0).all(axis=1))]
    names = list(dict.fromkeys(style.drawable(short(method)).strip() for method in lacking["method"]))
    if names:
        note = textwrap.fill(f"not measured or not finite: {joined(names)}", NOTE_WIDTH)
        axis.set_xlabel(f"{axis.get_xlabel()}\n{note}")
