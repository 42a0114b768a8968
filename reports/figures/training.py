"""The metric against wall-clock during training: the median over seeds in bold, the seeds around it."""

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
from odegrad.reports.summary import cells, rows_of, summary

TITLE = "Metric against training time"
MOST_LINES = 12
"""Seeds of one method that are drawn as lines of their own."""

Points = NDArray[np.float64]


def draw(frame: pd.DataFrame, columns: int = 2) -> Figure:
    """Return the figure: one panel a task, the metric over the seconds of training (evaluations left out).

    The axis fits what comes after the first evaluation; a start beyond it is said on the axis, and drawn outside.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``.
    columns
        1 or 2: columns of a page that the figure spans.

    Returns
    -------
    matplotlib.figure.Figure
        Lines carry the ``gid`` ``seed`` or ``median``. Points that are not finite are left out and counted.
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
            for r in rows_of(rows)
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
        seeds = [_points(run) for run in rows_of(group)]
        index = [v for m, v in labels if m == method].index(str(variant))
        keywords = style.line_style(str(method), index)
        _spread(axis, seeds, keywords["color"])
        left_out += sum(int((~np.isfinite(points)).any(axis=0).sum()) for points in seeds)
        axis.plot(
            *_finite(_quantile(seeds, 0.5)), **(keywords | {"markersize": 0.7 * keywords["markersize"]}), gid="median"
        )
    _target(axis, runs)
    names = runs["metric_name"].dropna()
    targets = [float(target) for target in runs["metric_target"].dropna()]
    cut = _begin_after_start(axis, [_finite(_points(run)) for run in rows_of(runs)], targets)
    axis.set_title(style.drawable(task))
    axis.set_xlabel("training time (s)" + (f"\nleft out as not finite: {left_out}" if left_out else ""))
    name = style.drawable(names.iloc[0]) if len(names) else "metric"
    axis.set_ylabel(f"{name}\n(untrained start beyond the axis)" if cut else name)


def _begin_after_start(axis: Axes, traces: list[Points], targets: list[float]) -> bool:
    """Fit the axis to what comes after the first evaluation, or the untrained start would flatten all else."""
    later = np.concatenate([points[1, 1:] for points in traces])
    if not later.size:
        return False
    low, high = float(later.min()), float(later.max())
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    axis.set_ylim(min([low, *targets]) - margin, max([high, *targets]) + margin)
    bottom, top = axis.get_ylim()
    return any(not bottom <= value <= top for points in traces for value in points[1, :1])


def _target(axis: Axes, runs: pd.DataFrame) -> None:
    targets = runs["metric_target"].dropna()
    if len(targets):
        axis.axhline(targets.iloc[0], color=style.GREY, linewidth=1.0, linestyle=":", zorder=1, gid="target")
        axis.annotate(
            f"target\n{units.significant(targets.iloc[0])}", (1.0, targets.iloc[0]), (2, 0), va="center",
            xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=7, color=style.GREY,
        )  # fmt: skip


def _points(run: object) -> Points:
    """Return seconds and metric of one run, ``[2, evaluations]``."""
    seconds, metric = (np.array(getattr(run, n), dtype=np.float64) for n in ("trace_seconds", "trace_metric"))
    length = min(len(seconds), len(metric))
    return np.stack([seconds[:length], metric[:length]])


def _spread(axis: Axes, seeds: list[Points], colour: str) -> None:
    """Draw what lies around the median: a thin line a seed, or the band between the quartiles if seeds are many."""
    if len(seeds) > MOST_LINES:
        low, high = _quantile(seeds, 0.25), _quantile(seeds, 0.75)
        seconds = _quantile(seeds, 0.5)[0]
        axis.fill_between(seconds, low[1], high[1], color=colour, alpha=0.2, linewidth=0.0, gid="band")
    elif len(seeds) > 1:
        for points in seeds:
            axis.plot(*_finite(points), color=colour, linewidth=0.7, alpha=0.4, gid="seed")


def _quantile(seeds: list[Points], level: float) -> Points:
    """Return a quantile over seeds of seconds and metric at each evaluation that every seed reached."""
    length = min(points.shape[1] for points in seeds)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.quantile([points[:, :length] for points in seeds], level, axis=0))


def _finite(points: Points) -> Points:
    return points[:, np.isfinite(points).all(axis=0)]
