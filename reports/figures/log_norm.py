"""Logarithmic norms and what they predict: over time, over training, as eigenvalues, and against observed errors."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from odegrad.reports import units
from odegrad.reports.canvas import style
from odegrad.reports.canvas.panels import a_panel_per_task, variant_number
from odegrad.reports.names import joined, short, sort_key
from odegrad.reports.summary import Results, Source

TITLE = "Logarithmic norm during training"
NORM_LINES = {"mu_2": (style.BLUE, "-", "mu_2(J)"), "mu_2_minus": (style.RED, (0, (4, 2)), "mu_2(-J)")}
"""Column -> colour, dashes and label; the first is growth forward in time, the second backward."""
UNSAFE = style.RED
TICKS = 5
"""Most labels on an axis of errors."""
MIN_ERROR, MAX_ERROR = 1e-16, 1e12
"""Errors below the first are rounding, above the second no gradient is left: they are drawn there."""


def over_time(axis: Axes, frame: pd.DataFrame) -> None:
    """Draw the mean over samples and the band from least to largest, against time.

    ``frame`` has a row a time: ``time``, and of each of ``NORM_LINES`` ``NAME_mean``, ``NAME_low``, ``NAME_high``.
    """
    for name, (colour, dashes, label) in NORM_LINES.items():
        axis.fill_between(frame["time"], frame[f"{name}_low"], frame[f"{name}_high"], color=colour, alpha=0.2, lw=0)
        axis.plot(frame["time"], frame[f"{name}_mean"], color=colour, linestyle=dashes, label=label, gid=name)
    axis.axhline(0.0, color=style.GREY, linewidth=0.8)
    axis.set(title="Growth along the trajectory", xlabel="time", ylabel="logarithmic norm (1/time)")
    axis.legend()


def cloud(axis: Axes, frame: pd.DataFrame) -> None:
    """Draw the eigenvalues of the Jacobian's symmetric part of every sample, against time.

    ``frame`` has columns ``time`` and ``eigenvalue``; without rows the panel says that there are none.
    """
    axis.set(title="Eigenvalues of (J + J^T) / 2", xlabel="time", ylabel="eigenvalue (1/time)")
    if frame.empty:
        axis.text(0.5, 0.5, "too large a state to form J", ha="center", va="center", transform=axis.transAxes)
        return
    axis.scatter(frame["time"], frame["eigenvalue"], s=4, color=style.BLUE, alpha=0.35, linewidths=0, gid="cloud")
    axis.axhline(0.0, color=style.GREY, linewidth=0.8)


def predicted_and_observed(axis: Axes, frame: pd.DataFrame) -> None:
    """Draw for each method the observed error (its marker) and the predicted one (a bar), on a logarithmic axis.

    ``frame`` has a row a method: ``gradient``, ``predicted``, ``observed`` (NaN where there is none), ``verdict``.
    """
    rows = frame.iloc[::-1].reset_index(drop=True)
    values = pd.concat([rows["predicted"], rows["observed"]]).dropna()
    values = values.clip(MIN_ERROR, MAX_ERROR)
    if values.empty:
        axis.text(0.5, 0.5, "no method has an error to show", ha="center", va="center", transform=axis.transAxes)
        return
    for place, row in enumerate(rows.itertuples()):
        drawn = style.look(str(row.gradient))
        if pd.notna(row.predicted):
            at = min(max(float(row.predicted), MIN_ERROR), MAX_ERROR)
            axis.plot([at], [place], marker="|", markersize=11, markeredgewidth=2.0, color=style.GREY, gid="predicted")
        if pd.notna(row.observed):
            at = min(max(float(row.observed), MIN_ERROR), MAX_ERROR)
            axis.plot([at], [place], marker=drawn.marker, color=drawn.colour, linestyle="none", gid="observed")
    axis.set_yticks(range(len(rows)), [short(str(name)) for name in rows["gradient"]])
    for label, verdict in zip(axis.get_yticklabels(), rows["verdict"], strict=True):
        label.set_color(style.BLACK if str(verdict).startswith("safe") else UNSAFE)
    style.log_axis(axis.xaxis, values, "relative error of the gradient", units.error)
    axis.xaxis.set_major_locator(LogLocator(numticks=TICKS))
    axis.set_title("Observed error (marker), predicted (bar)")


def training(axis: Axes, frame: pd.DataFrame) -> None:
    """Draw the largest logarithmic norms over iterations: ``iteration``, ``mu_2``, ``mu_2_minus``."""
    for name, (colour, dashes, label) in NORM_LINES.items():
        axis.plot(frame["iteration"], frame[name], color=colour, linestyle=dashes, marker="o", label=label, gid=name)
    axis.axhline(0.0, color=style.GREY, linewidth=0.8)
    axis.set(title="Largest norms during training", xlabel="iteration", ylabel="logarithmic norm (1/time)")
    axis.legend()


def draw_diagnosis(
    times: pd.DataFrame, eigenvalues: pd.DataFrame, methods: pd.DataFrame, trained: pd.DataFrame | None = None,
    columns: int = 2,
) -> Figure:  # fmt: skip
    """Return the figure of one diagnosis: growth over time, eigenvalues, errors, and norms over training if there are.

    Parameters
    ----------
    times, eigenvalues, methods
        As ``over_time``, ``cloud`` and ``predicted_and_observed`` take them.
    trained
        As ``training`` takes it, or None.
    columns
        1 or 2: columns of a page that the figure spans.
    """
    with style.applied():
        figure, grid = style.grid(2, 2, columns, height=2.9)
        axes = [axis for row in grid for axis in row]
        over_time(axes[0], times)
        cloud(axes[1], eigenvalues)
        predicted_and_observed(axes[2], methods)
        if trained is None:
            axes[3].remove()
        else:
            training(axes[3], trained)
        return figure


def draw_law(frame: pd.DataFrame, columns: int = 1) -> Figure:
    """Return the figure of the log-norm law: observed gradient errors against ``mu_2(-A) T``, and what is predicted.

    ``frame`` has columns ``gradient``, ``exponent``, ``observed``, ``predicted`` (NaN where the law does not
    apply): a family of contracting problems.
    """
    with style.applied():
        figure, grid = style.grid(1, 1, columns, height=3.2)
        axis = grid[0][0]
        names = sorted(frame["gradient"].unique(), key=sort_key)
        for name in names:
            rows = frame[frame["gradient"] == name].sort_values("exponent")
            axis.plot(rows["exponent"], rows["observed"].clip(lower=MIN_ERROR), gid=name, **style.line_style(name))
        law = frame.dropna(subset="predicted").drop_duplicates("exponent").sort_values("exponent")
        axis.plot(law["exponent"], law["predicted"], color=style.GREY, linestyle=":", gid="law", label="predicted")
        values = pd.concat([frame["observed"], law["predicted"]]).clip(lower=MIN_ERROR)
        style.log_axis(axis.yaxis, values, "relative error of the gradient", units.error)
        axis.set(title="The logarithmic-norm law", xlabel="mu_2(-A) T")
        axis.legend()
        style.legend(figure, [(name, "") for name in names], columns)
        return figure


def draw(frame: Source, columns: int = 2) -> Figure:
    """Return the figure of a set of records: the largest ``mu_2(-J)`` during training, one panel a task.

    Returns
    -------
    matplotlib.figure.Figure
        A line a method, the median over seeds, with the band from the least to the largest seed.
    """
    return a_panel_per_task(_points(frame), columns, _panel, "its logarithmic norm during training")


def describe(frame: Source) -> str:
    """Return the figure in words, for readers who cannot see it."""
    points = _points(frame)
    parts = []
    for task in style.tasks(points):
        rows = points[points["task"] == task]
        last = rows[rows["trace_iteration"] == rows["trace_iteration"].max()]
        ends = last.groupby("method", sort=False)["trace_log_norm_minus_max"].median()
        told = [f"{short(str(name))} {units.significant(value, 3)}" for name, value in ends.items()]
        parts.append(f"{task}: the largest mu_2(-J) ends at {joined(told)}")
    return f"{TITLE}, one panel a task. {'. '.join(parts) or 'No finished run'}."


def _points(frame: Source) -> pd.DataFrame:
    """Return one row for every run that ended ``ok`` and point of its training."""
    kept = Results.of(frame).ok
    kept = kept[kept["trace_log_norm_minus_max"].notna()]
    wanted = ["task", "method", "variant", "seed", "trace_iteration", "trace_log_norm_minus_max"]
    points = kept[wanted].explode(["trace_iteration", "trace_log_norm_minus_max"], ignore_index=True)
    return points.astype({"trace_iteration": float, "trace_log_norm_minus_max": float})


def _panel(axis: Axes, points: pd.DataFrame, labels: list[tuple[str, str]]) -> None:
    for method, variant in labels:
        rows = points[(points["method"] == method) & (points["variant"] == variant)]
        if rows.empty:
            continue
        values = rows.groupby("trace_iteration")["trace_log_norm_minus_max"].agg(["median", "min", "max"])
        drawn = style.line_style(method, variant_number(labels, method, variant))
        axis.fill_between(values.index, values["min"], values["max"], color=drawn["color"], alpha=0.15, lw=0)
        axis.plot(values.index, values["median"], gid="median", **drawn)
    axis.axhline(0.0, color=style.GREY, linewidth=0.8)
    axis.set(xlabel="iteration", ylabel="largest mu_2(-J) (1/time)")
