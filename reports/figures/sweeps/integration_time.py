"""A trained end time of the ODE, and what it does to the f calls, over the training."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from odegrad.reports import units
from odegrad.reports.canvas import style
from odegrad.reports.canvas.panels import labels_of, variant_number
from odegrad.reports.names import joined
from odegrad.reports.summary import Results, Source, rows_of
from odegrad.reports.tables.table import label

TITLE = "Integration time during training"


def draw(frame: Source, columns: int = 2) -> Figure:
    """Return the figure: a row a task, the end time and the f calls forward against iterations; a line a run.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``; runs whose end time is trained are drawn.
    columns
        1 or 2: columns of a page that the figure spans.

    Returns
    -------
    matplotlib.figure.Figure
        The median over seeds in bold with ``gid`` ``median``, seeds thin with ``gid`` ``seed``.
    """
    runs = _trained(frame)
    with style.applied():
        if runs.empty:
            return style.nothing_to_draw(columns, "an end time that is trained")
        tasks, labels = style.tasks(runs), labels_of(runs)
        figure, grid = style.grid(len(tasks), 2, columns, height=2.3)
        for task, (left, right) in zip(tasks, grid, strict=True):
            rows = runs[runs["task"] == task]
            _lines(left, rows, labels, "train_end_time", "end time")
            _lines(right, rows, labels, "trace_nfe_forward", "f calls forward")
            left.set_title(style.drawable(task))
            right.set_title(style.drawable(task))
        style.legend(figure, labels, columns)
        return figure


def describe(frame: Source) -> str:
    """Return the figure in words, for readers who cannot see it."""
    runs = _trained(frame)
    told = [
        f"{row.task}, {label(row)}, seed {units.count(row.seed)} from {units.significant(row.train_end_time[0])} to "
        f"{units.significant(row.train_end_time[-1])}"
        for row in rows_of(runs)
    ]
    return f"{TITLE}. {joined(told) or 'No run trains its end time'}."


def _trained(frame: Source) -> pd.DataFrame:
    ok = Results.of(frame).ok
    return ok[[isinstance(values, np.ndarray) and len(values) > 0 for values in ok["train_end_time"]]]


def _lines(axis: Axes, rows: pd.DataFrame, labels: list[tuple[str, str]], column: str, name: str) -> None:
    for (method, variant), group in rows.groupby(["method", "variant"], sort=False):
        drawn = style.line_style(str(method), variant_number(labels, str(method), str(variant)))
        lists = [getattr(row, column) for row in rows_of(group) if isinstance(getattr(row, column), np.ndarray)]
        if not lists:
            continue
        length = min(len(values) for values in lists)
        values = np.array([each[:length] for each in lists], dtype=float)
        at = np.arange(1, length + 1)
        if column.startswith("trace"):
            at = np.array(group["trace_iteration"].iloc[0][:length], dtype=float)
        for each in values if len(values) > 1 else ():
            axis.plot(at, each, color=drawn["color"], linewidth=0.7, alpha=0.4, gid="seed")
        axis.plot(at, np.median(values, axis=0), gid="median", markevery=max(1, length // 8), **drawn)
    axis.set(xlabel="iteration", ylabel=name)
