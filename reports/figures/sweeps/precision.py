"""The error of the gradient against the number of steps: of a field in 16 bits, and of all in 16 bits."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from odegrad.reports import units
from odegrad.reports.canvas import style
from odegrad.reports.names import joined
from odegrad.reports.summary import Results, Source, rows_of

TITLE = "Gradient error of low precision against the number of steps"
_ERROR = "gradient_relative_error"
_LINES = {
    ("float32", "bfloat16"): ("f in bfloat16", style.BLUE, "s", "-"),
    ("bfloat16", ""): ("all in bfloat16", style.BLUE, "s", (0, (4, 2))),
    ("float32", "float16"): ("f in float16", style.RED, "^", "-"),
    ("float16", ""): ("all in float16", style.RED, "^", (0, (4, 2))),
}
"""Types of run and field -> name, colour, marker and dashes of their line."""
ROUNDOFF = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
"""The unit roundoff u_L of the low types, drawn as dotted lines."""


def points_of(frame: Source) -> pd.DataFrame:
    """Return a row a task, pair of types and number of steps: ``task, dtype, precision, steps, error``.

    Medians over seeds. Types that were run with one number of steps are left out.
    """
    ok = Results.of(frame).ok
    ok = ok[ok["accepted_steps"].notna() & (ok[_ERROR] > 0)]
    rows = ok[["task", "dtype"]].assign(
        precision=ok["precision"].fillna(""),
        steps=ok["accepted_steps"].astype("float64"),
        error=ok[_ERROR].astype("float64"),
    )
    keys = ["task", "dtype", "precision"]
    medians = rows.groupby([*keys, "steps"], as_index=False)["error"].median()
    several = medians.groupby(keys)["steps"].transform("nunique") > 1
    drawn = [types in _LINES for types in zip(medians["dtype"], medians["precision"], strict=True)]
    return medians[several & pd.Series(drawn, medians.index, dtype=bool)].reset_index(drop=True)


def draw(frame: Source, columns: int = 2) -> Figure:
    """Return the figure: a panel a task, a line a pair of types on logarithmic axes, the roundoffs dotted.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``, of solves with several numbers of steps.
    columns
        1 or 2: columns of a page that the figure spans.

    Returns
    -------
    matplotlib.figure.Figure
        Lines carry the name of their types as ``gid``.
    """
    points = points_of(frame)
    with style.applied():
        if not (points["precision"] != "").any():
            return style.nothing_to_draw(columns, "a field in 16 bits with several numbers of steps")
        tasks = style.tasks(points)
        figure, grid = style.grid(-(-len(tasks) // 2), min(len(tasks), 2), columns, height=2.9)
        axes = [axis for row in grid for axis in row]
        for axis, task in zip(axes, tasks, strict=False):
            _panel(axis, points[points["task"] == task])
            axis.set_title(style.drawable(task))
        for axis in axes[len(tasks) :]:
            axis.remove()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2 if columns == 1 else 4, handlelength=3.2)
        return figure


def describe(frame: Source) -> str:
    """Return the figure in words, for readers who cannot see it."""
    parts = []
    for (task, dtype, precision), rows in points_of(frame).groupby(["task", "dtype", "precision"], sort=False):
        told = joined(f"{units.error(row.error)} at {units.count(row.steps)}" for row in rows_of(rows))
        parts.append(f"{task}, {_LINES[dtype, precision][0]}: {told} steps")
    return f"{TITLE}, medians over seeds. {'. '.join(parts) or 'No finished run'}."


def _panel(axis: Axes, points: pd.DataFrame) -> None:
    for types, (name, colour, marker, dashes) in _LINES.items():
        rows = points[(points["dtype"] == types[0]) & (points["precision"] == types[1])]
        axis.plot(rows["steps"], rows["error"], color=colour, marker=marker, linestyle=dashes, label=name, gid=name)
        if types[1] and len(rows):
            axis.axhline(ROUNDOFF[types[1]], color=colour, linestyle=(0, (1, 1.5)), linewidth=1.0, gid="roundoff")
    style.log_axis(axis.xaxis, points["steps"], "accepted steps", lambda value: f"{value:g}")
    shown = pd.concat([points["error"], pd.Series([ROUNDOFF[p] for p in points["precision"] if p], dtype="float64")])
    style.log_axis(axis.yaxis, shown, "gradient error (dotted: u)", units.error)
