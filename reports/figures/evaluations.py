"""The f calls of an iteration over the training: dynamics that stiffen as they are trained cost ever more of them."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from odegrad.reports import units
from odegrad.reports.canvas import style
from odegrad.reports.canvas.panels import a_panel_per_task, variant_number
from odegrad.reports.figures.training import MAX_CURVES, calls_of, points, quantile, spread
from odegrad.reports.names import joined
from odegrad.reports.statistics import median
from odegrad.reports.summary import Results, Source, rows_of
from odegrad.reports.tables.table import label

TITLE = "Function evaluations during training"
_TAKEN = ["task", "method", "variant", "trace_iteration", "trace_nfe_forward", "trace_nfe_backward"]


def draw(frame: Source, columns: int = 2) -> Figure:
    """Return the figure: one panel a task, f calls forward and backward of one iteration on the first batch.

    Returns
    -------
    matplotlib.figure.Figure
        The median over seeds with ``gid`` ``median``, around it the seeds or the band between their quartiles.
    """
    return a_panel_per_task(Results.of(frame).once(_traced), columns, _panel, "its f calls during training")


def describe(frame: Source) -> str:
    """Return the figure in words, for readers who cannot see it."""
    told = []
    for task, rows in Results.of(frame).once(_traced).groupby("task", sort=False):
        each = [
            f"{label(pd.Series({'method': method, 'variant': variant}))} from "
            f"{units.significant(median(calls[0] for calls in group['calls']))} to "
            f"{units.significant(median(calls[-1] for calls in group['calls']))}"
            for (method, variant), group in rows.groupby(["method", "variant"], sort=False)
        ]
        told.append(f"{task}: {joined(each)}")
    return (
        f"{TITLE}, forward and backward of one iteration, medians over seeds. {'. '.join(told) or 'No run has them'}."
    )


def _traced(frame: Results) -> pd.DataFrame:
    """Return the runs that ended ``ok`` and hold their f calls over the training, with ``calls``."""
    kept = frame.ok[_TAKEN]
    counted = [isinstance(v, np.ndarray) and len(v) > 1 for v in kept["trace_nfe_backward"]]
    kept = kept[pd.Series(counted, kept.index, dtype=bool)]
    return kept.assign(calls=pd.Series([calls_of(run) for run in rows_of(kept)], kept.index, dtype="object"))


def _panel(axis: Axes, runs: pd.DataFrame, labels: list[tuple[str, str]]) -> None:
    crowded = runs.groupby(["method", "variant"]).ngroups > MAX_CURVES
    for (method, variant), group in runs.groupby(["method", "variant"], sort=False):
        seeds = [points(at, calls) for at, calls in zip(group["trace_iteration"], group["calls"], strict=True)]
        keywords = style.line_style(str(method), variant_number(labels, str(method), str(variant)))
        if crowded:
            keywords |= {"markevery": [-1]}
        else:
            spread(axis, seeds, keywords["color"])
        axis.plot(*quantile(seeds, 0.5), gid="median", **keywords)
    axis.set(xlabel="iteration", ylabel="f calls an iteration", ylim=(0, None))
