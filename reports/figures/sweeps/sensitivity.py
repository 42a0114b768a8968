"""What SNOpt's damping and refresh period do to the metric and to the training loss."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from odegrad.reports import units
from odegrad.reports.canvas import style
from odegrad.reports.names import joined
from odegrad.reports.summary import Results, Source

TITLE = "SNOpt: sensitivity to damping and refresh period"
SNOPT_OPTIONS = {"eps": "damping eps", "update_freq": "iterations between refreshes"}
LAST = 10
"""Iterations at the end whose mean training loss is shown: one batch alone is noise."""
_MARGIN = 1.3
"""Factor that is left free on both sides of a logarithmic axis."""
_COLOURS = (style.PINK, style.BLUE, style.GREEN, style.ORANGE, style.BLACK)


def points_of(frame: Source) -> pd.DataFrame:
    """Return a row a run whose optimizer options name both of ``SNOPT_OPTIONS``.

    Columns ``task, seed, eps, update_freq, metric_name, metric, loss``; the loss is the mean of the last ``LAST``.
    """
    ok = Results.of(frame).ok
    options = [each if isinstance(each, dict) else {} for each in ok["optimizer_options"]]
    chosen = {
        name: pd.Series([each.get(name) for each in options], ok.index, dtype="float64") for name in SNOPT_OPTIONS
    }
    held = [isinstance(each, np.ndarray) and each.size > 0 for each in ok["train_loss"]]
    every = zip(ok["train_loss"], held, strict=True)
    losses = [float(np.mean(each[-LAST:])) if is_there else np.nan for each, is_there in every]
    rows = ok[["task", "seed", "metric_name"]].assign(
        **chosen, metric=ok["metric_value"].astype("float64"), loss=pd.Series(losses, ok.index, dtype="float64")
    )
    return rows.dropna(subset=list(SNOPT_OPTIONS)).reset_index(drop=True)


def sweep(rows: pd.DataFrame, option: str) -> list[tuple[float, pd.DataFrame]]:
    """Return the sweeps of ``option``: for each value of the other option at which it was varied, that and the runs."""
    other = next(name for name in SNOPT_OPTIONS if name != option)
    groups = [(float(value), group) for value, group in rows.groupby(other)]
    return [(value, group.sort_values(option)) for value, group in groups if len(set(group[option])) > 1]


def draw(frame: Source, columns: int = 2) -> Figure:
    """Return the figure: two rows a task, metric and training loss; eps on the left, the refresh period on the right.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``: runs whose optimizer options name ``eps`` and ``update_freq``.
    columns
        1 or 2: columns of a page that the figure spans.

    Returns
    -------
    matplotlib.figure.Figure
        A line is the median over seeds (``gid`` ``median``), a dot a seed (``seed``).
    """
    points = points_of(frame)
    with style.applied():
        if not any(sweep(rows, name) for _, rows in points.groupby("task") for name in SNOPT_OPTIONS):
            return style.nothing_to_draw(columns, "several settings of SNOpt")
        tasks = style.tasks(points)
        figure, grid = style.grid(2 * len(tasks), len(SNOPT_OPTIONS), columns, height=2.1)
        for place, task in enumerate(tasks):
            rows = points[points["task"] == task]
            names = rows["metric_name"].dropna()
            shown = {"metric": style.drawable(names.iloc[0]) if len(names) else "metric", "loss": "training loss"}
            for axes, (quantity, called) in zip(grid[2 * place : 2 * place + 2], shown.items(), strict=True):
                for axis, option in zip(axes, SNOPT_OPTIONS, strict=True):
                    _panel(axis, rows, option, quantity)
                    axis.set(ylabel=called, title=style.drawable(task))
        return figure


def describe(frame: Source) -> str:
    """Return the figure in words, for readers who cannot see it."""
    points = points_of(frame)
    parts = []
    for task, rows in points.groupby("task", sort=False):
        for option, called in SNOPT_OPTIONS.items():
            for fixed, group in sweep(rows, option):
                medians = group.groupby(option)["metric"].median()
                told = joined(f"{units.significant(v, 4)} at {k:g}" for k, v in medians.items())
                other = next(name for name in SNOPT_OPTIONS if name != option)
                parts.append(f"{task}, {called} at {other} {fixed:g}: {told}")
    return f"{TITLE}, medians over seeds of the metric. {'. '.join(parts) or 'No finished run'}."


def _panel(axis: Axes, rows: pd.DataFrame, option: str, quantity: str) -> None:
    other = next(name for name in SNOPT_OPTIONS if name != option)
    for place, (fixed, group) in enumerate(sweep(rows, option)):
        colour = _COLOURS[place % len(_COLOURS)]
        medians = group.groupby(option)[quantity].median()
        axis.plot(group[option], group[quantity], ".", color=colour, alpha=0.5, gid="seed")
        axis.plot(medians.index, medians, marker="D", color=colour, gid="median", label=f"{other} {fixed:g}")
    if not axis.lines:
        axis.text(0.5, 0.5, "not varied", transform=axis.transAxes, ha="center")
        return
    ticks = sorted(set(rows[option]))
    axis.set(xlim=(ticks[0] / _MARGIN, ticks[-1] * _MARGIN), xscale="log", xlabel=SNOPT_OPTIONS[option])
    axis.set_xticks(ticks)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axis.legend()


def table_of(frame: Source) -> pd.DataFrame:
    """Return a row a task and setting: ``task, eps, update_freq, metric_name``, medians and ranges over seeds.

    ``metric, metric_low, metric_high, loss, runs``; the ends are the worst and best seed's in size.
    """
    points = points_of(frame)
    groups = points.groupby(["task", *SNOPT_OPTIONS], sort=False)
    rows = [
        dict(zip(["task", *SNOPT_OPTIONS], key, strict=True))
        | {
            "metric_name": next(iter(group["metric_name"].dropna()), ""),
            "metric": group["metric"].median(),
            "metric_low": group["metric"].min(),
            "metric_high": group["metric"].max(),
            "loss": group["loss"].median(),
            "runs": len(group),
        }
        for key, group in groups
    ]
    names = ["task", *SNOPT_OPTIONS, "metric_name", "metric", "metric_low", "metric_high", "loss", "runs"]
    return pd.DataFrame(rows, columns=names).sort_values(["task", *SNOPT_OPTIONS]).reset_index(drop=True)
