"""What one iteration costs each method: f calls forward and backward, and memory."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from odegrad.reports import units
from odegrad.reports.canvas import dots, style
from odegrad.reports.canvas.panels import FEW_TASKS, in_words
from odegrad.reports.summary import Source, rows_of, summary
from odegrad.reports.tables.table import label

TITLE = "Function evaluations and memory of one iteration"
_MANY = (
    dots.Quantity("nfe_forward", "f calls forward", units.count),
    dots.Quantity("nfe_backward", "f calls backward", units.count),
    dots.Quantity("peak_bytes", "peak bytes", units.memory),
)
"""What the figure of more than ``FEW_TASKS`` tasks shows, as dots."""
DARK, LIGHT, KEPT, PEAK = style.BLUE, style.SKY, style.GREEN, "#8FD3BF"


def draw(frame: Source, columns: int = 2) -> Figure:
    """Return the figure: a row a task, bars of NFE and of memory, one bar a method.

    NFE forward and backward are stacked to their sum. Memory kept between the passes is part of the peak, so it lies
    inside the peak's bar.

    Returns
    -------
    matplotlib.figure.Figure
        Medians over seeds; a method without a finished run keeps its place and says so.
    """
    table = summary(frame)
    with style.applied():
        if not (table["n_ok"] > 0).any():
            return style.nothing_to_draw(columns, "its costs")
        tasks = style.tasks(table)
        if len(tasks) > FEW_TASKS:
            return dots.draw(table, _MANY, columns)
        most = int(table.groupby("task").size().max())
        figure, grid = style.grid(len(tasks), 2, columns, height=0.8 + 0.24 * most)
        for task, (left, right) in zip(tasks, grid, strict=True):
            rows = table[table["task"] == task]
            _nfe(left, rows)
            _memory(right, rows)
            for axis in (left, right):
                _name_bars(axis, rows, names=columns == 1 or axis is left)
                axis.set_title(style.drawable(task))
        _legend(figure, columns)
        return figure


def describe(frame: Source) -> str:
    """Return the figure in words, for readers who cannot see it."""
    table = summary(frame)
    return in_words(f"{TITLE}, as bars", table[table["n_ok"] > 0], _tell)


def _tell(row: Any) -> str:
    return (
        f"{label(row)} {units.count(row.nfe_forward)} forward and {units.count(row.nfe_backward)} backward calls, "
        f"peak {units.memory(row.peak_bytes)}, {units.memory(row.saved_bytes)} kept between the passes"
    )


def _nfe(axis: Axes, rows: pd.DataFrame) -> None:
    places, forward = np.arange(len(rows)), rows["nfe_forward"].fillna(0).to_numpy()
    backward = rows["nfe_backward"].fillna(0).to_numpy()
    axis.barh(places, forward, height=0.7, color=DARK)
    axis.barh(places, backward, left=forward, height=0.7, color=LIGHT)
    texts = [
        f"{units.count(r.nfe_forward)} + {units.count(r.nfe_backward)}" if r.n_ok else "no run ended ok"
        for r in rows_of(rows)
    ]
    _annotate(axis, forward + backward, texts)
    axis.set_xlabel("f calls")


def _memory(axis: Axes, rows: pd.DataFrame) -> None:
    places, peak = np.arange(len(rows)), rows["peak_bytes"].fillna(0).to_numpy() / 1e6
    axis.barh(places, peak, height=0.7, color=PEAK)
    axis.barh(places, rows["saved_bytes"].fillna(0).to_numpy() / 1e6, height=0.3, color=KEPT)
    texts = [units.memory(r.peak_bytes) if r.n_ok else "no run ended ok" for r in rows_of(rows)]
    _annotate(axis, peak, texts)
    axis.set_xlabel("memory (MB)")


def _annotate(axis: Axes, ends: "np.ndarray[tuple[int], np.dtype[np.float64]]", texts: list[str]) -> None:
    for place, (end, text) in enumerate(zip(ends, texts, strict=True)):
        axis.annotate(text, (end, place), (3, 0), textcoords="offset points", va="center", fontsize=7)


def _name_bars(axis: Axes, rows: pd.DataFrame, names: bool) -> None:
    labels = [style.drawable(label(row)) for row in rows_of(rows)]
    axis.set_yticks(range(len(rows)), labels if names else [""] * len(rows))
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.margins(x=0.25)
    axis.xaxis.set_major_locator(MaxNLocator(5, prune="upper"))


def _legend(figure: Figure, columns: int) -> None:
    handles = [Patch(color=colour) for colour in (DARK, LIGHT, KEPT, PEAK)]
    texts = ["f calls forward", "f calls backward", "memory kept for backward", "peak bytes"]
    figure.legend(handles, texts, loc="outside lower center", ncols=2 if columns == 1 else 4)
