"""Gradient error against what it costs: time and f calls of one forward and backward pass, and peak bytes."""

import math
import textwrap
from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from odegrad.reports import units
from odegrad.reports.canvas import dots, style
from odegrad.reports.canvas.panels import FEW_TASKS, in_words
from odegrad.reports.equal_error import pareto_front
from odegrad.reports.names import joined, short, sort_key
from odegrad.reports.summary import Source, summary
from odegrad.reports.tables.table import label

GRADIENT_ERRORS = {
    "gradient_relative_error": "gradient error\n(relative, float64 reference)",
    "trained_gradient_relative_error": "gradient error after training\n(relative, float64 reference)",
    "gradient_method_error": "method error\n(relative, naive on the same grid)",
}
"""Columns that can stand on the error axis, and what the axis says."""

TITLES = {
    "gradient_relative_error": "Gradient error at the initial parameters against time, f calls and memory",
    "trained_gradient_relative_error": "Gradient error at the trained parameters against time, f calls and memory",
    "gradient_method_error": "The method's own share of the gradient error against time, f calls and memory",
}
TRAINED = frozenset({"trained_gradient_relative_error"})
"""Errors at the trained parameters; f calls are those there too, times and memory are known at the initial ones."""

_COSTS = {"seconds": "forward + backward time", "nfe": "f calls", "peak_bytes": "peak bytes"}
_MANY = (
    dots.Quantity("error", "gradient error", lambda value: f"{value:.0e}"),
    dots.Quantity("seconds", "time of both passes", units.seconds),
    dots.Quantity("nfe", _COSTS["nfe"], units.count),
    dots.Quantity("peak_bytes", _COSTS["peak_bytes"], units.memory),
)
"""What the figure of more than ``FEW_TASKS`` tasks shows, as dots."""
NOTE_WIDTH = 40
"""Characters of a line beneath a panel."""


def draw(frame: Source, columns: int = 2, error: str = "gradient_relative_error") -> Figure:
    """Return the figure: a row a task, error over time, f calls and memory, all axes logarithmic.

    A thin grey line joins the points that no other beats in both: the Pareto front.

    A logarithmic axis has no zero: an error of exactly 0 is drawn at a floor, a decade below the least other error,
    and the floor is labelled ``exactly 0``. What is not finite, or was not measured, is named beneath the first panel.
    ``error`` is one of ``GRADIENT_ERRORS``.

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
        if len(tasks) > FEW_TASKS:
            return dots.draw(table[table["task"].isin(tasks)], _MANY, columns)
        figure, grid = style.grid(len(tasks), len(_COSTS), columns, height=2.5)
        for task, axes in zip(tasks, grid, strict=True):
            rows = table[table["task"] == task]
            for axis, cost in zip(axes, _COSTS, strict=True):
                panel(axis, rows, cost, error)
                axis.set_title(style.drawable(task))
            name_missing(axes[0], rows)
        style.legend(figure, [(m, "") for m in sorted(set(table["method"][table["drawn"]]), key=sort_key)], columns)
        return figure


def describe(frame: Source, error: str = "gradient_relative_error") -> str:
    """Return the figure in words, for readers who cannot see it."""
    table = _points(frame, error)
    return in_words(f"{TITLES[error]}, logarithmic axes", table[table["drawn"]], _tell)


def _tell(row: Any) -> str:
    return (
        f"{label(row)} {units.error(row.error)} in {units.seconds(row.seconds)}, {units.count(row.nfe)} f calls and "
        f"{units.memory(row.peak_bytes)}"
    )


def floor(errors: pd.Series) -> float:
    """Return where an error of zero is drawn: a decade below the least positive one, rounded down to a power of ten."""
    positive = errors[(errors > 0) & (errors < math.inf)]
    return float(10.0 ** (math.floor(math.log10(positive.min())) - 1)) if len(positive) else 1e-16


def _points(frame: Source, error: str) -> pd.DataFrame:
    table = summary(frame)
    table = table.assign(seconds=table["forward_seconds"] + table["backward_seconds"], error=table[error])
    when = "trained_" if error in TRAINED else ""
    table = table.assign(nfe=table[f"{when}nfe_forward"] + table[f"{when}nfe_backward"])
    return table.assign(drawn=(table["error"] >= 0) & (table["error"] < math.inf))


def panel(axis: Axes, rows: pd.DataFrame, cost: str, error: str) -> None:
    """Draw the ``error`` of ``rows`` over ``cost``; ``drawn`` says which rows have both."""
    drawn = rows[rows["drawn"] & (rows[cost] > 0)]
    when = "" if error not in TRAINED else "\nafter training" if cost == "nfe" else "\nbefore training"
    if drawn.empty:
        axis.set(xlabel=_COSTS[cost] + when, ylabel=GRADIENT_ERRORS[error])
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center")
        return
    bottom = floor(drawn["error"])
    heights = drawn["error"].where(drawn["error"] > 0, bottom)
    for method, points in drawn.assign(height=heights).groupby("method", sort=False):
        ordered = points.sort_values(cost)
        axis.plot(ordered[cost], ordered["height"], **style.line_style(str(method)))
    _mark_front(axis, drawn[cost], heights)
    scale, unit = SUITED[cost](float(drawn[cost].max()))
    style.log_axis(
        axis.xaxis, drawn[cost], f"{_COSTS[cost]}{unit and f' ({unit})'}{when}", lambda value: f"{value / scale:g}"
    )
    exact = bool((drawn["error"] == 0).any())
    style.log_axis(
        axis.yaxis, heights, GRADIENT_ERRORS[error],
        lambda value: "exactly 0" if exact and math.isclose(value, bottom) else f"{value:.0e}",
    )  # fmt: skip
    if exact:
        axis.axhline(bottom, color=style.GREY, linewidth=1.0, linestyle=":", zorder=1, gid="floor")


SUITED: dict[str, Callable[[float], tuple[float, str]]] = {
    "seconds": units.seconds_unit, "nfe": lambda _largest: (1.0, ""), "peak_bytes": units.memory_unit,
}  # fmt: skip
"""Cost -> the unit that suits its largest value."""


def _mark_front(axis: Axes, costs: pd.Series, heights: pd.Series) -> None:
    front = pareto_front(costs, heights)
    places = costs[front].sort_values()
    if len(places) > 1:
        axis.plot(places, heights[places.index], color=style.GREY, linewidth=0.9, alpha=0.7, zorder=1, gid="pareto")


def name_missing(axis: Axes, rows: pd.DataFrame) -> None:
    """Name beneath ``axis`` the methods of its task that lack an error or a cost."""
    costs = [cost for cost in _COSTS if cost in rows]
    lacking = rows[~(rows["drawn"] & (rows[costs] > 0).all(axis=1))]
    names = list(dict.fromkeys(style.drawable(short(method)).strip() for method in lacking["method"]))
    if names:
        note = textwrap.fill(f"not measured or not finite: {joined(names)}", NOTE_WIDTH)
        axis.set_xlabel(f"{axis.get_xlabel()}\n{note}")
