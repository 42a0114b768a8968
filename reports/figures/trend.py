"""Trends over commits: how many figures moved at each, and the series that moved, with their steps marked."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from odegrad.reports.figures import style
from odegrad.reports.trends import Mark, Series, Step, Trends, shown

OVERVIEW_TITLE = "Figures that moved, by commit"
COLOURS = {"regressed": style.RED, "improved": style.GREEN, "changed": style.GREY}
MOST_PANELS = 6
"""Of one run."""

DECADES = 30.0
"""Values that span more than this factor are drawn on a logarithmic axis."""

_TICKS = 5
_DIGITS = 7


def draw_overview(trends: Trends) -> Figure:
    """Return how many series moved at each commit, by verdict; releases are dotted."""
    with style.applied():
        figure = Figure(figsize=(style.COLUMN_INCHES[2], 2.0), layout="constrained")
        axes = figure.subplots()
        bottom = np.zeros(len(trends.marks))
        for verdict, colour in COLOURS.items():
            counts = np.zeros(len(trends.marks))
            for step in trends.steps:
                counts[step.bad] += step.verdict == verdict
            if counts.any():
                axes.bar(np.arange(len(counts)), counts, bottom=bottom, color=colour, label=verdict, width=0.8)
                bottom += counts
        axes.set(ylabel="series", ylim=(0, max(1.0, 1.1 * bottom.max())))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        axes.grid(visible=False, axis="x")
        _commits(axes, trends.marks)
        if bottom.any():
            axes.legend(loc="upper left", ncols=len(COLOURS))
    return figure


def describe_overview(trends: Trends) -> str:
    """Return the overview in words."""
    return " ".join(trends.sentences())


def draw_run(trends: Trends, suite: str, run: str) -> Figure | None:
    """Return the series of a run that moved, with their steps; None if it has none that are numbers."""
    series = moved_series(trends, suite, run)[:MOST_PANELS]
    if not series:
        return None
    columns = 2 if len(series) > 1 else 1
    rows = -(-len(series) // columns)
    with style.applied():
        figure = Figure(figsize=(style.COLUMN_INCHES[2], 1.75 * rows + 0.1), layout="constrained")
        flat = list(figure.subplots(rows, columns, squeeze=False, sharex=True).flat)
        for axes, each in zip(flat, series, strict=False):
            _panel(axes, each, trends, steps_of(trends, each))
        for axes in flat[len(series) :]:
            axes.set_axis_off()
    return figure


def moved_series(trends: Trends, suite: str, run: str) -> list[Series]:
    """Return the series of a run with a step or a drift, whose values are numbers."""
    moved = {_identity(step) for step in (*trends.steps, *trends.drifts)}
    mine = [each for each in trends.series if (each.suite, each.run) == (suite, run) and _identity(each) in moved]
    return [each for each in mine if not isinstance(each.measured[0], str)]


def steps_of(trends: Trends, series: Series) -> list[Step]:
    """Return the steps of a series."""
    return [step for step in trends.steps if _identity(step) == _identity(series)]


def _identity(each: Series | Step) -> tuple[str, str, str, str]:
    return (each.suite, each.run, each.metric, each.machine)


def _panel(axes: Axes, series: Series, trends: Trends, steps: Sequence[Step]) -> None:
    """Draw one series: a point a commit, levels between steps, and each step's commit range shaded."""
    places = np.asarray(series.places, dtype=float)
    values = np.asarray(series.measured, dtype=float)
    several = len(trends.machines) > 1
    axes.set_title(f"{series.metric} ({series.machine})" if several else series.metric)
    for step in steps:
        axes.axvspan(step.good, step.bad, color=_colour(step), alpha=0.18, linewidth=0)
        axes.axvline(step.bad, color=_colour(step), linewidth=1.0)
    axes.plot(places, values, linestyle="none", marker="o", markersize=3.0 if len(values) < 80 else 1.8,
              color=style.BLUE, alpha=0.9 if len(values) < 80 else 0.6)  # fmt: skip
    edges = [float(places[0]), *(float(step.bad) for step in steps), float(places[-1]) + 0.5]
    for start, stop in pairwise(edges):
        inside = (places >= start) & (places < stop)
        if inside.any():
            axes.hlines(np.median(values[inside]), start, places[inside][-1], color=style.BLACK, linewidth=1.2)
    _values_axis(axes, series, values[np.isfinite(values)])
    _commits(axes, trends.marks)


def _values_axis(axes: Axes, series: Series, finite: NDArray[np.float64]) -> None:
    """Fit the vertical axis to the finite values, logarithmic where they span decades, with units at its ticks."""
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    whole = isinstance(series.measured[0], int)
    if low > 0.0 and high > DECADES * low:
        axes.set(yscale="log", ylim=(low / 2.0, high * 2.0))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        margin = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=whole))
    tick = FuncFormatter(lambda value, _place: shown(series.metric, round(value) if whole else value))
    axes.yaxis.set_major_formatter(tick)


def _colour(step: Step) -> str:
    return COLOURS.get(step.verdict, style.GREY)


def _commits(axes: Axes, marks: Sequence[Mark]) -> None:
    """Name a few commits on the horizontal axis, and mark releases."""
    last = len(marks) - 1
    axes.set_xlim(-0.5, last + 0.5)
    places = sorted({round(place) for place in np.linspace(0, last, min(_TICKS, last + 1))})
    axes.set_xticks(places, [marks[place].sha[:_DIGITS] for place in places])
    keywords: Mapping[str, Any] = {"color": style.GREY, "linestyle": ":", "linewidth": 1.0}
    for place, mark in enumerate(marks):
        if mark.release:
            axes.axvline(place, **keywords)
            axes.text(
                place, 0.98, f" {style.drawable(mark.release)}", transform=axes.get_xaxis_transform(), fontsize=6.5,
                color=style.GREY, ha="left", va="top",
            )  # fmt: skip
