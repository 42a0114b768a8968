"""The metric against wall-clock during training: thin lines are seeds, the bold line is their median."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from odegrad.record import Status
from odegrad.reports import units
from odegrad.reports.figures import style
from odegrad.reports.names import joined, short, sort_key
from odegrad.reports.summary import cells, summary

TITLE = "Metric against training time"
Points = NDArray[np.float64]


def draw(frame: pd.DataFrame, columns: int = 2) -> Figure:
    """Return the figure: one panel a task, the metric over the seconds of training (evaluations left out).

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``.
    columns
        1 or 2: columns of a page that the figure spans.

    Returns
    -------
    matplotlib.figure.Figure
        Lines carry ``gid`` ``seed`` or ``median``. Points that are not finite are left out and counted in the panel.
    """
    traces = _traces(frame)
    with style.applied():
        if traces.empty:
            return style.nothing_to_draw(columns, "its metric during training")
        tasks = style.tasks(traces)
        per_row = min(len(tasks), 2) if columns == 2 else 1
        rows = -(-len(tasks) // per_row)
        figure, grid = style.grid(rows, per_row, columns, height=2.7)
        axes = [axis for row in grid for axis in row]
        keys = {(str(m), str(v)) for m, v in zip(traces["method"], traces["variant"], strict=True)}
        labels = sorted(keys, key=lambda key: (sort_key(key[0]), key[1]))
        for axis, task in zip(axes, tasks, strict=False):
            _panel(axis, task, traces[traces["task"] == task], labels)
        for axis in axes[len(tasks) :]:
            axis.remove()
        style.legend(figure, labels, columns)
        return figure


def describe(frame: pd.DataFrame) -> str:
    """Return the figure in words, for readers who cannot see it."""
    table = summary(frame)
    parts = []
    for task in style.tasks(_traces(frame)):
        rows = table[(table["task"] == task) & (table["n_ok"] > 0)]
        ends = [
            f"{short(r.method)} {units.significant(r.metric_value, 4)} after {units.seconds(r.train_seconds)}"
            for r in rows.itertuples()
        ]
        names = rows["metric_name"].dropna()
        parts.append(f"{task}: {names.iloc[0] if len(names) else 'metric'} ends at {joined(ends)}")
    return f"{TITLE}, one panel a task. {'. '.join(parts) or 'No finished run'}."


def _traces(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that ended ``ok`` and hold a trace, in the order in which they are drawn."""
    kept = cells(frame)
    kept = kept[(kept["status"] == Status.OK) & kept["trace_metric"].notna() & kept["trace_seconds"].notna()]
    order = kept["method"].map(sort_key)
    return kept.assign(order=order).sort_values(["task", "order", "variant", "seed"])


def _panel(axis: Axes, task: str, runs: pd.DataFrame, labels: Sequence[tuple[str, str]]) -> None:
    left_out = 0
    for (method, variant), group in runs.groupby(["method", "variant"], sort=False):
        seeds = [_points(run) for run in group.itertuples()]
        index = [v for m, v in labels if m == method].index(variant)
        keywords = style.line_style(str(method), index)
        for points in seeds if len(seeds) > 1 else []:
            axis.plot(*_finite(points), color=keywords["color"], linewidth=0.7, alpha=0.4, gid="seed")
        left_out += sum(int((~np.isfinite(points)).any(axis=0).sum()) for points in seeds)
        axis.plot(*_finite(_median(seeds)), **keywords, gid="median")
    _target(axis, runs)
    names = runs["metric_name"].dropna()
    axis.set_title(style.drawable(task))
    axis.set_xlabel("training time (s)" + (f"\nleft out as not finite: {left_out}" if left_out else ""))
    axis.set_ylabel(style.drawable(names.iloc[0]) if len(names) else "metric")


def _target(axis: Axes, runs: pd.DataFrame) -> None:
    targets = runs["metric_target"].dropna()
    if len(targets):
        axis.axhline(targets.iloc[0], color=style.GREY, linewidth=1.0, linestyle=":", zorder=1, gid="target")
        axis.annotate(
            f"target {units.significant(targets.iloc[0])}", (0.02, targets.iloc[0]), (0, 2),
            xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=7, color=style.GREY,
        )  # fmt: skip


def _points(run: object) -> Points:
    """Return seconds and metric of one run, ``[2, evaluations]``."""
    seconds, metric = (np.array(getattr(run, n), dtype=np.float64) for n in ("trace_seconds", "trace_metric"))
    length = min(len(seconds), len(metric))
    return np.stack([seconds[:length], metric[:length]])


def _median(seeds: list[Points]) -> Points:
    """Return the median over seeds of seconds and metric at each evaluation that every seed reached."""
    length = min(points.shape[1] for points in seeds)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.median([points[:, :length] for points in seeds], axis=0))


def _finite(points: Points) -> Points:
    return points[:, np.isfinite(points).all(axis=0)]
