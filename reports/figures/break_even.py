"""When compiling pays: seconds of so many iterations and of compiling together, at equal gradient error."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from odegrad.reports import units
from odegrad.reports.canvas import style
from odegrad.reports.canvas.panels import in_words
from odegrad.reports.contrasts import contrasts
from odegrad.reports.names import short, sort_key
from odegrad.reports.summary import Results, Source

TITLE = "Compile time against iterations, at equal gradient error"
ITERATIONS = np.geomspace(1.0, 1e5, 101)


def draw(frame: Source, columns: int = 2) -> Figure:
    """Return the figure: a panel a kind of task, a line for the fastest method of each library.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``: sweeps over tolerances of methods of several libraries.
    columns
        1 or 2: columns of a page that the figure spans.

    Returns
    -------
    matplotlib.figure.Figure
        Lines carry the ``gid`` ``total``: seconds of compiling and of so many gradients.
    """
    lines = _lines(Results.of(frame))
    with style.applied():
        if lines.empty:
            return style.nothing_to_draw(columns, "compile seconds in a sweep over libraries")
        kinds = list(dict.fromkeys(lines["kind"]))
        figure, grid = style.grid(-(-len(kinds) // columns), columns, columns, height=2.6)
        panels = [axis for row in grid for axis in row]
        for axis, kind in zip(panels, kinds, strict=False):
            _panel(axis, lines[lines["kind"] == kind])
            axis.set_title(style.drawable(kind))
        for axis in panels[len(kinds) :]:
            axis.set_axis_off()
        style.legend(figure, [(m, "") for m in sorted(set(lines["method"]), key=sort_key)], columns)
        return figure


def describe(frame: Source) -> str:
    """Return the figure in words, for readers who cannot see it."""
    lines = _lines(Results.of(frame)).rename(columns={"kind": "task"})
    return in_words(TITLE, lines, _tell, "No library compiled in a sweep over tolerances")


def _tell(row: Any) -> str:
    before = "" if row.compile_seconds == 0.0 else f" after {units.seconds(row.compile_seconds)} of compiling"
    return f"{short(row.method)} {units.seconds(row.seconds)} per gradient{before}"


def _lines(results: Results) -> pd.DataFrame:
    """Return ``kind, method, seconds, compile_seconds`` of each library's fastest method, where any compiles."""
    rows, seen = [], set()
    for each in contrasts(results):  # the fastest first
        if np.isfinite(each.seconds) and each.seconds > 0.0 and (each.kind, each.library) not in seen:
            seen.add((each.kind, each.library))
            rows.append((each.kind, each.method, each.seconds, np.nan_to_num(each.compile_seconds)))
    lines = pd.DataFrame(rows, columns=["kind", "method", "seconds", "compile_seconds"])
    compiled = lines.groupby("kind")["compile_seconds"].transform("max") > 0.0
    return lines[compiled].reset_index(drop=True)


def _panel(axis: Axes, lines: pd.DataFrame) -> None:
    totals = []
    for row in lines.itertuples():
        totals.append(row.compile_seconds + ITERATIONS * row.seconds)
        keywords = style.line_style(str(row.method)) | {"marker": ""}
        axis.plot(ITERATIONS, totals[-1], gid="total", **keywords)
    style.log_axis(axis.xaxis, pd.Series(ITERATIONS), "iterations", lambda value: f"{value:g}")
    style.log_axis(
        axis.yaxis, pd.Series(np.concatenate(totals)), "seconds, compiling and gradients", lambda v: f"{v:g}"
    )
