"""The metric during training, against seconds, iterations or f calls: the median over seeds, and the seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from odegrad.reports import units
from odegrad.reports.canvas import style
from odegrad.reports.canvas.panels import a_panel_per_task, variant_number
from odegrad.reports.names import joined
from odegrad.reports.summary import Results, Source, rows_of, summary
from odegrad.reports.tables.table import label

TITLES = {
    "seconds": "Metric against training time",
    "iterations": "Metric against iterations",
    "nfe": "Metric against function evaluations",
}
OPTIMIZERS_TITLE = "Optimizers: metric against training time"
MAX_LINES = 12
"""Seeds of one method that are drawn as lines of their own."""

MAX_CURVES = 16
"""Medians in one panel beyond which seeds are not drawn and only the last point has its marker: one sees no more."""

Points = NDArray[np.float64]


def draw(frame: Source, columns: int = 2, against: str = "seconds") -> Figure:
    """Return the figure: one panel a task, the metric over the training (evaluations left out).

    The axis fits what comes after the first evaluation; a start beyond it is said on the axis, and drawn outside.
    ``against`` is one of ``AXES``.

    Returns
    -------
    matplotlib.figure.Figure
        Lines carry the ``gid`` ``seed`` or ``median``. Points that are not finite are left out and counted.
    """
    panel = partial(_panel, across=AXES[against])
    return a_panel_per_task(traces(frame, against), columns, panel, "its metric during training")


def draw_optimizers(frame: Source, columns: int = 2) -> Figure:
    """Return the figure of optimizers: the metric over the seconds of training, a line and colour an optimizer.

    Only tasks on which at least two optimizers were run; runs that differ in more, such as the gradient method, are
    lines of their own.
    """
    with style.applied():
        if not _several_optimizers(frame).any():
            return style.nothing_to_draw(columns, "a task with more than one optimizer")
    return draw(Results.of(frame).once(_by_optimizer), columns)


def describe_optimizers(frame: Source) -> str:
    """Return the figure of optimizers in words, for readers who cannot see it."""
    return describe(Results.of(frame).once(_by_optimizer)).replace(TITLES["seconds"], OPTIMIZERS_TITLE)


def _several_optimizers(frame: Source) -> pd.Series:
    cells = Results.of(frame).cells
    return cells["optimizer"].groupby(cells["task"]).transform("nunique") > 1


def _by_optimizer(frame: Results) -> Results:
    """Return the results with the optimizer in the place of the method."""
    cells = frame.cells[_several_optimizers(frame)]
    return Results(cells.assign(method=cells["optimizer"]).drop(columns="variant"))


def describe(frame: Source, against: str = "seconds") -> str:
    """Return the figure in words, for readers who cannot see it."""
    table = summary(frame)
    parts = []
    for task in style.tasks(_traced(frame)):
        rows = table[(table["task"] == task) & (table["n_ok"] > 0)]
        ends = [
            f"{label(r)} {units.significant(r.metric_value, 4)} after {units.seconds(r.train_seconds)}"
            for r in rows_of(rows)
        ]
        names = rows["metric_name"].dropna()
        parts.append(f"{task}: {names.iloc[0] if len(names) else 'metric'} ends at {joined(ends)}")
    return f"{TITLES[against]}, one panel a task. {'. '.join(parts) or 'No finished run'}."


def traces(frame: Source, against: str) -> pd.DataFrame:
    """Return the runs that ended ``ok`` and hold a trace, with ``x``: the points' places, in the order drawn."""
    kept = _traced(frame)
    across = AXES[against]
    places = [across.values(run) for run in rows_of(kept[list(across.columns)])]
    return kept[_DRAWN].assign(x=pd.Series(places, kept.index, dtype="object"))


def _traced(frame: Source) -> pd.DataFrame:
    """Return the runs that ended ``ok`` and hold a trace, in the order drawn."""
    kept = Results.of(frame).ok
    return kept[kept["trace_metric"].notna() & kept["trace_iteration"].notna() & kept["trace_seconds"].notna()]


_DRAWN = ["task", "method", "variant", "seed", "trace_metric", "metric_name", "metric_target"]
"""Few columns: reading a row takes as long as it has columns."""
_CALLS = ("nfe_forward", "nfe_backward", "trained_nfe_forward", "trained_nfe_backward")
_TRACED_CALLS = ("trace_nfe_forward", "trace_nfe_backward")


def calls_of(run: Any) -> NDArray[np.float64]:
    """Return the f calls, forward and backward, of one iteration at each point of a run's training.

    Records of schemas before these were traced hold them at the initial and at the trained parameters alone, or only at
    the former: between the two they are taken to change evenly, and otherwise to stay.
    """
    if all(isinstance(getattr(run, name), list) for name in _TRACED_CALLS):
        forward, backward = (np.asarray(getattr(run, name), dtype=np.float64) for name in _TRACED_CALLS)
        return forward + backward
    start = float(_number(run.nfe_forward) + _number(run.nfe_backward))
    end = float(_number(run.trained_nfe_forward) + _number(run.trained_nfe_backward))
    iterations = np.asarray(run.trace_iteration, dtype=np.float64)
    share = iterations / max(iterations[-1], 1.0) if iterations.size else iterations
    return start + share * (0.0 if np.isnan(end) else end - start)


def nfe_of(run: Any) -> list[float]:
    """Return the f calls up to each point of a run's training: the integral of ``calls_of`` by trapezoids."""
    calls, iterations = calls_of(run), np.asarray(run.trace_iteration, dtype=np.float64)
    between = np.diff(iterations) * (calls[1:] + calls[:-1]) / 2.0
    return [float(v) for v in np.concatenate([np.zeros(min(1, iterations.size)), np.cumsum(between)])]


def _number(value: Any) -> float:
    return float("nan") if pd.isna(value) else float(value)


@dataclass(frozen=True)
class Across:
    """What the horizontal axis is."""

    name: str
    values: Callable[[Any], object]
    """Run -> the place of each of its points."""
    columns: tuple[str, ...]
    """What it takes of a run."""


AXES = {
    "seconds": Across("training time (s)", lambda run: run.trace_seconds, ("trace_seconds",)),
    "iterations": Across("iteration", lambda run: run.trace_iteration, ("trace_iteration",)),
    "nfe": Across("f calls, forward and backward", nfe_of, ("trace_iteration", *_CALLS, *_TRACED_CALLS)),
}
"""What the metric can be drawn against."""


def _panel(axis: Axes, runs: pd.DataFrame, labels: Sequence[tuple[str, str]], across: Across) -> None:
    left_out = 0
    crowded = runs.groupby(["method", "variant"]).ngroups > MAX_CURVES
    every = []
    for (method, variant), group in runs.groupby(["method", "variant"], sort=False):
        seeds = [points(places, metric) for places, metric in zip(group["x"], group["trace_metric"], strict=True)]
        every += seeds
        keywords = style.line_style(str(method), variant_number(labels, str(method), str(variant)))
        if crowded:
            keywords |= {"markevery": [-1]}
        else:
            spread(axis, seeds, keywords["color"])
        left_out += sum(int((~np.isfinite(points)).any(axis=0).sum()) for points in seeds)
        axis.plot(
            *finite(quantile(seeds, 0.5)), **(keywords | {"markersize": 0.7 * keywords["markersize"]}), gid="median"
        )
    _target(axis, runs)
    names = runs["metric_name"].dropna()
    targets = [float(target) for target in runs["metric_target"].dropna()]
    cut = _begin_after_start(axis, [finite(points) for points in every], targets)
    axis.set_xlabel(across.name + (f"\nleft out as not finite: {left_out}" if left_out else ""))
    name = style.drawable(names.iloc[0]) if len(names) else "metric"
    axis.set_ylabel(f"{name}\n(start beyond the axis)" if cut else name)


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


def points(places: Sequence[float], metric: Sequence[float]) -> Points:
    """Return the places and the metric of one run, ``[2, evaluations]``."""
    length = min(len(places), len(metric))
    return np.array([places[:length], metric[:length]], dtype=np.float64)


def spread(axis: Axes, seeds: list[Points], colour: str) -> None:
    """Draw what lies around the median: a thin line a seed, or the band between the quartiles if seeds are many."""
    if len(seeds) > MAX_LINES:
        low, high = quantile(seeds, 0.25), quantile(seeds, 0.75)
        places = quantile(seeds, 0.5)[0]
        axis.fill_between(places, low[1], high[1], color=colour, alpha=0.2, linewidth=0.0, gid="band")
    elif len(seeds) > 1:
        for points in seeds:
            axis.plot(*finite(points), color=colour, linewidth=0.7, alpha=0.4, gid="seed")


def quantile(seeds: list[Points], level: float) -> Points:
    """Return a quantile over seeds of places and metric at each evaluation that every seed reached."""
    length = min(points.shape[1] for points in seeds)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.quantile([points[:, :length] for points in seeds], level, axis=0))


def finite(points: Points) -> Points:
    """Return the points both of whose coordinates are finite."""
    return points[:, np.isfinite(points).all(axis=0)]
