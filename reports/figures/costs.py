"""What one iteration costs: f calls forward and backward, and memory; and how the calls grow with stiffness."""

from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from odegrad.reports import units
from odegrad.reports.canvas import dots, style
from odegrad.reports.canvas.panels import FEW_TASKS, in_words
from odegrad.reports.summary import Results, Source, rows_of, summary
from odegrad.reports.tables.table import label

TITLE = "Function evaluations and memory of one iteration"
_MANY = (
    dots.Quantity("nfe_forward", "f calls forward", units.count),
    dots.Quantity("nfe_backward", "f calls backward", units.count),
    dots.Quantity("peak_bytes", "peak bytes", units.memory),
)
"""What the figure of more than ``FEW_TASKS`` tasks shows, as dots."""
DARK, LIGHT, KEPT, PEAK = style.BLUE, style.SKY, style.GREEN, "#8FD3BF"

STIFFNESS_TITLE = "Cost against stiffness"
_DECAY = "log_norm_minus_max"
_WAYS: dict[str, Literal["-", "--"]] = {"nfe_forward": "-", "nfe_backward": "--"}
_COLOURS = (style.BLUE, style.GREEN, style.SKY)
"""Of the solvers, in the order of their names; further ones begin anew, with another marker."""
_MARKERS = "osD^v"


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


def costs_by_decay(frame: Source) -> pd.DataFrame:
    """Return f calls by ``task, solver, method, decay``: ``nfe_forward, nfe_backward``, a row a size of the task.

    Medians over seeds; solvers that were run at one size of a task, or whose decays were not diagnosed, are left out.
    """
    ok = Results.of(frame).ok
    known = ok[ok[[_DECAY, *_WAYS]].notna().all(axis=1)] if len(ok) else ok
    numbers = {name: known[name].astype("float64") for name in _WAYS}
    rows = known[["task", "size", "solver", "method"]].assign(decay=known[_DECAY].astype("float64"), **numbers)
    points = rows.groupby(["task", "solver", "method", "size"], sort=False, as_index=False).median()
    points = points[points["decay"] > 0.0]
    several = points.groupby(["task", "solver", "method"], sort=False)["decay"].transform("nunique") > 1
    return points[several].drop(columns="size").sort_values(["task", "solver", "method", "decay"], ignore_index=True)


def draw_stiffness(frame: Source, columns: int = 2) -> Figure:
    """Return the figure: a panel a task, a solid line a solver for the forward pass and a dashed one for the backward.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``, of one task at several sizes whose decays differ.
    columns
        1 or 2: columns of a page that the figure spans.

    Returns
    -------
    matplotlib.figure.Figure
        Lines carry the ``gid`` ``nfe_forward`` or ``nfe_backward``.
    """
    points = costs_by_decay(frame)
    with style.applied():
        if points.empty:
            return style.nothing_to_draw(columns, "one task at several decays")
        solvers = sorted(set(points["solver"]))
        tasks = style.tasks(points)
        figure, grid = style.grid(len(tasks), 1, columns, height=2.7)
        for task, (axis, *_) in zip(tasks, grid, strict=True):
            _stiffness_panel(axis, points[points["task"] == task], solvers)
            axis.set_title(style.drawable(task))
        handles = [Line2D([], [], **_look(solvers, name)) for name in solvers]
        handles += [Line2D([], [], color="black", linestyle=dashes) for dashes in _WAYS.values()]
        texts = [*map(style.drawable, solvers), "forward pass", "backward pass"]
        figure.legend(handles, texts, loc="outside lower center", ncols=min(len(texts), 2 * columns))
        return figure


def describe_stiffness(frame: Source) -> str:
    """Return the figure in words, for readers who cannot see it."""
    return in_words(STIFFNESS_TITLE, costs_by_decay(frame), _tell_stiffness, "No task was run at several decays")


def _tell_stiffness(row: Any) -> str:
    return (
        f"{row.solver} with {row.method} {units.count(row.nfe_forward)} forward and {units.count(row.nfe_backward)} "
        f"backward calls at a decay of {row.decay:.3g}"
    )


def _look(solvers: list[str], name: str) -> dict[str, Any]:
    place = solvers.index(name)
    marker = _MARKERS[place // len(_COLOURS) % len(_MARKERS)]
    return {"color": _COLOURS[place % len(_COLOURS)], "marker": marker, "markersize": 5.5}


def _stiffness_panel(axis: Axes, points: pd.DataFrame, solvers: list[str]) -> None:
    for (solver, _), rows in points.groupby(["solver", "method"], sort=False):
        for name, dashes in _WAYS.items():
            axis.plot(rows["decay"], rows[name], gid=name, linestyle=dashes, **_look(solvers, str(solver)))
    style.log_axis(axis.xaxis, points["decay"], "fastest decay, largest mu_2(-J) (1/time)", lambda value: f"{value:g}")
    calls = pd.concat([points[name] for name in _WAYS])
    style.log_axis(axis.yaxis, calls[calls > 0], "f calls of one iteration", units.count)
