"""Gradient methods on one model: error against time, and error against memory."""

import math

import pandas as pd
from matplotlib.figure import Figure

from odegrad.reports.canvas import style
from odegrad.reports.figures.log_norm import over_time
from odegrad.reports.figures.work_precision import name_missing, panel


def draw(table: pd.DataFrame, columns: int = 2, growth: pd.DataFrame | None = None) -> Figure:
    """Return the figure: two panels, a point a method; down and to the left is better; and one of the growth if given.

    Parameters
    ----------
    table
        A row a method with ``gradient``, ``gradient_error``, ``forward_seconds``, ``backward_seconds``,
        ``peak_bytes``, as ``odegrad.compare_gradients`` returns it.
    columns
        1 or 2: columns of a page that the figure spans.
    growth
        Logarithmic norms as ``odegrad.reports.figures.log_norm.over_time`` takes them; None for no third panel.

    Returns
    -------
    matplotlib.figure.Figure
        Logarithmic axes, methods in the colours and markers of every other figure; what has no figures is named.
    """
    rows = table.rename(columns={"gradient": "method"}).assign(
        seconds=table["forward_seconds"] + table["backward_seconds"],
        error=table["gradient_error"],
        drawn=(table["gradient_error"] >= 0) & (table["gradient_error"] < math.inf),
    )
    with style.applied():
        if not rows["drawn"].any():
            return style.nothing_to_draw(columns, "its gradient error")
        figure, grid = style.grid(1, 2 if growth is None else 3, columns, height=3.0)
        for axis, cost in zip(grid[0][:2], ("seconds", "peak_bytes"), strict=True):
            panel(axis, rows, cost, "gradient_relative_error")
        name_missing(grid[0][0], rows)
        if growth is not None:
            over_time(grid[0][2], growth)
            grid[0][2].set_title("growth")  # a third of the width holds no more
        style.legend(figure, [(method, "") for method in rows["method"][rows["drawn"]]], columns)
        return figure
