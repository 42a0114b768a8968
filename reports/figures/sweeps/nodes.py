"""The interpolation method's gradient error and backward f calls, against its number of nodes and the tolerance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from odegrad.reports import units
from odegrad.reports.canvas import style
from odegrad.reports.names import joined
from odegrad.reports.summary import Results, Source, rows_of

TITLES = {
    "nodes": "Interpolation method: gradient error and backward f calls against the number of nodes",
    "rtol": "Interpolation method: gradient error and backward f calls against the tolerance",
}
NODE_AXES = {"nodes": "interpolation nodes", "rtol": "tolerance rtol"}
OPTION = "num_nodes"
_INTERPOLATION, _BASELINE = "interpolation", "adjoint"
_QUANTITIES = {"error": "gradient error\n(relative, float64 reference)", "nfe_backward": "f calls backward"}
_COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.SKY, style.PINK, style.GREY, style.BLACK)
"""Without the adjoint's own."""
_MARGIN = 1.15
"""Factor that is left free on both sides of a logarithmic axis, at least."""
_MARKERS = ("D", "o", "s", "^", "v", "P", "X")


@dataclass(frozen=True)
class PanelLine:
    """One line of a panel: its label, its points, and its place among lines of its kind, which decides its look."""

    label: str
    points: pd.DataFrame
    place: int
    baseline: bool = False


def points_of(frame: Source) -> pd.DataFrame:
    """Return a row a task, tolerance and number of nodes (0: the adjoint), medians over seeds.

    Columns ``task, gradient, nodes, rtol, error, method_error, nfe_forward, nfe_backward``. Runs of the interpolation
    method that do not say their number of nodes are left out.
    """
    ok = Results.of(frame).ok
    options = [(each if isinstance(each, dict) else {}).get(OPTION) for each in ok["gradient_options"]]
    nodes = pd.Series(options, ok.index, dtype="float64").where(ok["gradient"] == _INTERPOLATION, 0.0)
    rows = ok.assign(nodes=nodes)[ok["gradient"].isin([_INTERPOLATION, _BASELINE]) & nodes.notna()]
    values = {
        "error": rows["gradient_relative_error"], "method_error": rows["gradient_method_error"],
        "nfe_forward": rows["nfe_forward"], "nfe_backward": rows["nfe_backward"],
    }  # fmt: skip
    keys = ["task", "gradient", "nodes", "rtol"]
    table = rows[keys].assign(**{name: column.astype("float64") for name, column in values.items()})
    medians = table.groupby(keys, sort=False, as_index=False).median()
    return medians.sort_values(["task", "rtol", "nodes"], ascending=[True, False, True]).reset_index(drop=True)


def draw(frame: Source, columns: int = 2, across: str = "nodes") -> Figure:
    """Return the figure: a row a task, the error and the backward f calls; across nodes or tolerance.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``: runs of ``interpolation`` with the option ``num_nodes``, and of
        ``adjoint`` beside them.
    columns
        1 or 2: columns of a page that the figure spans.
    across
        One of ``NODE_AXES``: across nodes a line is a tolerance and the adjoint a dotted line of its colour; across
        tolerances a line is a number of nodes.

    Returns
    -------
    matplotlib.figure.Figure
        Lines carry the ``gid`` ``interpolation`` or ``adjoint``.
    """
    points = points_of(frame)
    with style.applied():
        if not (points["nodes"] > 0).any():
            return style.nothing_to_draw(columns, "the interpolation method with several numbers of nodes")
        tasks = style.tasks(points)
        figure, grid = style.grid(len(tasks), len(_QUANTITIES), columns, height=2.3)
        for task, axes in zip(tasks, grid, strict=True):
            lines = lines_of(points[points["task"] == task], across)
            for axis, quantity in zip(axes, _QUANTITIES, strict=True):
                _panel(axis, lines, across, quantity)
                axis.set_title(style.drawable(task))
        handles = {str(line.get_label()): line for axis in figure.axes for line in axis.lines if _named(line)}
        if across == "nodes" and (points["gradient"] == _BASELINE).any():
            handles[f"{_BASELINE} at the same rtol"] = Line2D([], [], color=style.GREY, linestyle=":")
        figure.legend(handles.values(), list(handles), loc="outside lower center", ncols=2 if columns == 1 else 3)
        return figure


def describe(frame: Source, across: str = "nodes") -> str:
    """Return the figure in words, for readers who cannot see it."""
    points = points_of(frame)
    parts = []
    for task in style.tasks(points):
        told = [
            f"{line.label}: errors {joined(units.error(v) for v in line.points['error'])} with "
            f"{joined(units.count(v) for v in line.points['nfe_backward'])} calls at "
            f"{joined(f'{v:g}' for v in line.points[across] if v > 0) or 'no nodes'}"
            for line in lines_of(points[points["task"] == task], across)
        ]
        parts.append(f"{task}: {'; '.join(told)}")
    return f"{TITLES[across]}, at the initial parameters. {'. '.join(parts) or 'No finished run'}."


def lines_of(rows: pd.DataFrame, across: str) -> list[PanelLine]:
    """Return one task's lines: across nodes one a tolerance and method, across tolerances one a number of nodes."""
    if across == "nodes":
        by = [(rtol, part) for rtol, part in rows.groupby("rtol", sort=False)]
        return [
            PanelLine(f"{prefix}rtol {rtol:g}", part[part["gradient"] == name], place, name == _BASELINE)
            for name, prefix in ((_INTERPOLATION, ""), (_BASELINE, f"{_BASELINE}, "))
            for place, (rtol, part) in enumerate(by)
            if (part["gradient"] == name).any()
        ]
    counts = sorted(rows["nodes"].unique())
    inner = [count for count in counts if count > 0]
    return [
        PanelLine(f"{count:g} nodes" if count else _BASELINE, part, inner.index(count) if count else 0, not count)
        for count in counts
        if not (part := rows[rows["nodes"] == count]).empty
    ]


def _panel(axis: Axes, lines: Sequence[PanelLine], across: str, quantity: str) -> None:
    every = pd.concat([line.points[quantity] for line in lines]).dropna()
    shown = every[(every > 0) & (every < math.inf)] if quantity == "error" else every
    for line in lines:
        colour, marker = _COLOURS[line.place % len(_COLOURS)], _MARKERS[line.place % len(_MARKERS)]
        points = line.points
        if line.baseline and across == "nodes":
            for row in rows_of(points):
                axis.axhline(getattr(row, quantity), color=colour, linestyle=":", gid=_BASELINE)
        elif line.baseline:
            hollow = {"markerfacecolor": "none", "markersize": 9.0, "linestyle": "--", "zorder": 3}
            look = style.line_style(_BASELINE) | hollow
            axis.plot(points[across], points[quantity], gid=_BASELINE, label=line.label, **look)
        else:
            axis.plot(
                points[across], points[quantity], color=colour, marker=marker, gid=_INTERPOLATION, label=line.label,
                markersize=max(8.0 - line.place, 3.0),  # a line that lies on another is still seen
            )  # fmt: skip
    if quantity == "error" and len(shown):
        style.log_axis(axis.yaxis, shown, _QUANTITIES[quantity], lambda value: f"{value:.0e}")
    else:
        axis.set_ylabel(_QUANTITIES[quantity])
        axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.margins(y=0.12)  # a marker at an end is whole
    _across(axis, pd.concat([line.points[across] for line in lines]), across)


def _named(line: Line2D) -> bool:
    """Return whether ``line`` goes into the legend: matplotlib gives others a name that begins with an underscore."""
    return not str(line.get_label()).startswith("_")


def _across(axis: Axes, values: pd.Series, across: str) -> None:
    """Make the horizontal axis logarithmic with a tick at every value; tighter tolerances stand to the right."""
    ticks = sorted(set(values[values > 0]))
    margin = max(_MARGIN, (ticks[-1] / ticks[0]) ** 0.04)
    axis.set(xlim=(ticks[0] / margin, ticks[-1] * margin), xscale="log", xlabel=NODE_AXES[across])
    axis.set_xticks(ticks)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    if across == "rtol":
        axis.invert_xaxis()
