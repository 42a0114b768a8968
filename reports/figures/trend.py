"""Trends over commits: how many figures moved at each, and the series that moved, with their steps marked."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from odegrad.reports import units
from odegrad.reports.canvas import style
from odegrad.reports.trends import Mark, Trends, TrendSeries, TrendStep, unit_of

OVERVIEW_TITLE = "Figures that moved, by commit"
_COLOURS = {"regressed": style.RED, "improved": style.GREEN, "changed": style.GREY}
MAX_PANELS = 6
"""Metrics of one run that are drawn."""

_MACHINES = [style.BLUE, style.ORANGE, style.PINK, style.SKY]

DECADES = 30.0
"""Values that span more than this factor are drawn on a logarithmic axis."""

_TICKS = 5
_DIGITS = 7


def draw_overview(trends: Trends) -> Figure:
    """Return how many series moved at each commit, by verdict; releases are dotted."""
    with style.applied():
        figure = style.DrawnFigure(figsize=(style.COLUMN_INCHES[2], 2.0), layout="constrained")
        axes = figure.subplots()
        bottom = np.zeros(len(trends.marks))
        for verdict, colour in _COLOURS.items():
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
            figure.legend(loc="outside upper right", ncols=len(_COLOURS))
    return figure


def describe_overview(trends: Trends) -> str:
    """Return the overview in words."""
    return " ".join(trends.sentences())


def draw_run(trends: Trends, suite: str, run: str) -> Figure | None:
    """Return the metrics of a run that moved, with their steps, times first; None if it has none that are numbers."""
    panels = list(moved_metrics(trends, suite, run).items())[:MAX_PANELS]
    if not panels:
        return None
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    with style.applied():
        width, height = style.COLUMN_INCHES[2], 1.6 * rows + 0.3
        figure = style.DrawnFigure(figsize=(width, height))
        # all panels are alike, so that a search for their layout, which takes as long as drawing them, finds no better
        figure.subplots_adjust(0.65 / width, 0.3 / height, 1.0 - 0.3 / width, 1.0 - 0.3 / height, 0.28, 0.32)
        flat = list(figure.subplots(rows, columns, squeeze=False, sharex=True).flat)
        for axes, (metric, series) in zip(flat, panels, strict=False):
            _panel(axes, metric, series, trends)
        for place in range(len(panels), len(flat)):
            flat[place].set_axis_off()
            flat[place - columns].tick_params(labelbottom=True)
    return figure


def moved_metrics(trends: Trends, suite: str, run: str) -> dict[str, list[TrendSeries]]:
    """Return the metrics of a run with a step or a drift whose values are numbers, with their series, times first."""
    moved = {step.metric for step in (*trends.steps, *trends.drifts) if (step.suite, step.run) == (suite, run)}
    mine = [each for each in trends.series if (each.suite, each.run) == (suite, run) and each.metric in moved]
    found: dict[str, list[TrendSeries]] = {}
    for each in sorted(mine, key=lambda series: unit_of(series.metric) != "s"):
        if not isinstance(each.measured[0], str):
            found.setdefault(each.metric, []).append(each)
    return found


def _panel(axes: Axes, metric: str, series: Sequence[TrendSeries], trends: Trends) -> None:
    """Draw one metric, a colour a machine: a point a commit, levels between steps, each step's commit range shaded."""
    scale, unit = _unit(metric, series)
    axes.set_title(f"{metric} [{unit}]" if unit else metric)
    every = []
    for each, colour in zip(series, _MACHINES * len(series), strict=False):
        places, values = np.asarray(each.places, dtype=float), np.asarray(each.measured, dtype=float) / scale
        steps = [step for step in trends.steps if _identity(step) == _identity(each)]
        for step in steps:
            axes.axvspan(step.good, step.bad, color=_colour(step), alpha=0.18, linewidth=0)
            axes.axvline(step.bad, color=_colour(step), linewidth=1.0)
        size = 3.0 if len(trends.marks) < 80 else 1.8
        axes.plot(places, values, linestyle="none", marker="o", markersize=size, color=colour, alpha=0.8)
        edges = [float(places[0]), *(float(step.bad) for step in steps), float(places[-1]) + 0.5]
        for start, stop in pairwise(edges):
            inside = (places >= start) & (places < stop)
            if inside.any():
                axes.hlines(np.median(values[inside]), start, places[inside][-1], color=style.BLACK, linewidth=1.2)
        if len(series) > 1 and np.isfinite(values[-1]):
            axes.annotate(each.machine, (places[-1], values[-1]), (3, 3), textcoords="offset points", color=colour)
        every.append(values[np.isfinite(values)])
    _values_axis(axes, np.concatenate(every), whole=scale == 1.0 and isinstance(series[0].measured[0], int))
    _commits(axes, trends.marks)


def _identity(each: TrendSeries | TrendStep) -> tuple[str, str, str, str]:
    return (each.suite, each.run, each.metric, each.machine)


def _unit(metric: str, series: Sequence[TrendSeries]) -> tuple[float, str]:
    """Return what the values are divided by on the axis, and the name of that."""
    largest = max((float(v) for each in series for v in each.measured if math.isfinite(v)), default=1.0)
    unit = unit_of(metric)
    known = {"B": units.memory_unit, "s": units.seconds_unit}
    return known[unit](largest) if unit in known else (1.0, unit)


def _values_axis(axes: Axes, finite: NDArray[np.float64], whole: bool) -> None:
    """Fit the vertical axis to the finite values, logarithmic where they span decades."""
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if low > 0.0 and high > DECADES * low:
        axes.set(yscale="log", ylim=(low / 2.0, high * 2.0))
        axes.yaxis.set_minor_locator(NullLocator())
        return
    margin = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=whole))
    axes.ticklabel_format(axis="y", useOffset=False)


def _colour(step: TrendStep) -> str:
    return _COLOURS.get(step.verdict, style.GREY)


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
