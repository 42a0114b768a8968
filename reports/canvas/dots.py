"""Dot plots (Cleveland, 1984): one row a task, one dot a method, one panel a quantity; many tasks in little room."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from odegrad.reports.canvas import style
from odegrad.reports.canvas.panels import labels_of, variant_number
from odegrad.reports.summary import rows_of

ROW_INCHES = 0.3
_SPREAD = 0.62
"""Share of a task's row over which its methods lie, so that equal values stay apart."""


@dataclass(frozen=True)
class Quantity:
    """What one panel shows."""

    column: str
    """Column of the table: positive; 0 is drawn at a floor, infinity at the right edge, NaN not at all."""
    title: str
    tick: Callable[[float], str]
    """Writes a value on the axis, with its unit."""
    beyond: str = "not finite"
    """What infinity is called."""


def draw(table: pd.DataFrame, quantities: Sequence[Quantity], columns: int = 2) -> Figure:
    """Return the figure, on logarithmic axes.

    Parameters
    ----------
    table
        A row a ``task, method, variant`` with the quantities' columns.
    quantities
        A panel each.
    columns
        1 or 2: columns of a page that the figure spans.

    Returns
    -------
    matplotlib.figure.Figure
        Dots carry the column's name as ``gid``.
    """
    tasks, labels = style.tasks(table), labels_of(table)
    most = int(table.groupby("task").size().max())
    row = max(ROW_INCHES, 0.085 * most)
    figure, grid = style.grid(1, len(quantities), columns, height=row * len(tasks) + 0.7)
    for number, (axis, quantity) in enumerate(zip(grid[0], quantities, strict=True)):
        _panel(axis, table, quantity, tasks, labels)
        named = columns == 1 or number == 0
        axis.set_yticks(range(len(tasks)), [style.drawable(task) if named else "" for task in tasks])
        axis.set(ylim=(len(tasks) - 0.5, -0.5))
        axis.set_title(quantity.title, fontsize=8.0)
        axis.tick_params(axis="y", length=0)
    style.legend(figure, labels, columns)
    return figure


def _panel(
    axis: Axes, table: pd.DataFrame, quantity: Quantity, tasks: Sequence[str], labels: Sequence[tuple[str, str]]
) -> None:
    values = table[quantity.column].astype("float64")
    shown = values[(values > 0) & np.isfinite(values)]
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (1.0, 1.0)
    low, high = low / 2.0, high * 2.0
    floor, edge = low / 4.0, high * 3.0
    has_zero, has_infinity = bool((values == 0).any()), bool(np.isinf(values).any())
    offsets = dict(zip(labels, _SPREAD * (np.arange(len(labels)) + 0.5) / len(labels) - _SPREAD / 2, strict=True))
    for place in range(1, len(tasks), 2):
        axis.axhspan(place - 0.5, place + 0.5, color="#F4F4F4", linewidth=0.0, zorder=0)
    for key, rows in table.groupby(["method", "variant"], sort=False):
        method, variant = str(key[0]), str(key[1])
        places = [(_drawn(getattr(r, quantity.column), floor, edge), tasks.index(r.task)) for r in rows_of(rows)]
        x, y = zip(*places, strict=True)
        keywords = style.line_style(method, variant_number(labels, method, variant)) | {"linestyle": "none"}
        size = 0.8 * keywords["markersize"]
        axis.plot(x, np.array(y) + offsets[method, variant], **(keywords | {"markersize": size}), gid=quantity.column)
    axis.set_xscale("log")
    axis.set_xlim(floor / 2.0 if has_zero else low, edge * 2.0 if has_infinity else high)
    axis.xaxis.set_major_locator(LogLocator(numticks=4, subs=(1.0,) if high / low > 100.0 else (1.0, 3.0)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: quantity.tick(value)))
    for there, at, text in ((has_zero, floor, "exactly 0"), (has_infinity, edge, quantity.beyond)):
        if there:
            axis.axvline(at, color=style.GREY, linewidth=1.0, linestyle=":", zorder=1)
            axis.annotate(text, (at, 0.0), (0, -22), xycoords=("data", "axes fraction"), textcoords="offset points",
                          ha="center", va="top", fontsize=7, color=style.GREY)  # fmt: skip


def _drawn(value: float, floor: float, edge: float) -> float:
    if math.isnan(value) or value < 0:
        return math.nan
    return floor if value == 0 else min(value, edge)
