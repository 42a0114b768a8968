"""How many steps each sample of a batch takes by itself, beside those that all take where they share them."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from odegrad.reports import units
from odegrad.reports.canvas import style
from odegrad.reports.canvas.panels import a_panel_per_task, in_words, variant_number
from odegrad.reports.statistics import median
from odegrad.reports.summary import Results, Source
from odegrad.reports.tables.table import label

TITLE = "Steps of each sample"
_TAKEN = ["task", "method", "variant", "accepted_steps", "sample_steps"]
MAX_BINS = 24
FAINT = 0.25
FAR_APART = 8.0
"""From so many times the least steps to the most, the axis is logarithmic."""


def draw(frame: Source, columns: int = 2) -> Figure:
    """Return the figure: one panel a task, a histogram over the samples of the first batch for each variant.

    Returns
    -------
    matplotlib.figure.Figure
        Outlines with ``gid`` ``own`` are of samples with steps of their own, over all seeds; upright lines with ``gid``
        ``joint`` are at the steps of runs whose samples share them, medians over seeds.
    """
    return a_panel_per_task(Results.of(frame).once(_counted), columns, _panel, "samples with steps of their own")


def describe(frame: Source) -> str:
    """Return the figure in words, for readers who cannot see it."""
    rows = Results.of(frame).once(_counted)
    groups = rows.groupby(["task", "method", "variant"], sort=False)
    first = rows.loc[[group.index[0] for _, group in groups]]
    return in_words(f"{TITLE} in one forward pass", first, _tell, "No run has samples with steps of their own")


def _tell(row: Any) -> str:
    own = row.sample_steps
    if not isinstance(own, np.ndarray):
        return f"{label(row)} {units.count(row.accepted_steps)} steps that all samples share"
    ends = f"{units.count(min(own))} to {units.count(max(own))}"
    return f"{label(row)} {ends}, {units.significant(median(own))} in the middle"


def _counted(frame: Results) -> pd.DataFrame:
    """Return the runs that ended ``ok`` of every task with one whose samples have steps of their own."""
    kept = frame.ok[_TAKEN]
    own = pd.Series(
        [isinstance(steps, np.ndarray) and len(steps) > 0 for steps in kept["sample_steps"]], kept.index, dtype=bool
    )
    return kept[kept["task"].isin(set(kept["task"][own])) & (own | kept["accepted_steps"].notna())]


def _panel(axis: Axes, runs: pd.DataFrame, labels: list[tuple[str, str]]) -> None:
    every = [steps for each in runs["sample_steps"] if isinstance(each, np.ndarray) for steps in each]
    low, high = float(min(every)), float(max(every))
    edges, most, filled = _edges(int(low), int(high)), high, list[list[float]]()
    for (method, variant), group in runs.groupby(["method", "variant"], sort=False):
        drawn = style.line_style(str(method), variant_number(labels, str(method), str(variant)))
        look = {"color": drawn["color"], "linestyle": drawn["linestyle"]}
        own = [steps for each in group["sample_steps"] if isinstance(each, np.ndarray) for steps in each]
        if own:
            heights, _ = np.histogram(own, edges)
            axis.stairs(heights / len(own), edges, gid="own", **look)
            if own not in filled:
                # Methods that take the same steps, as most do, share one area.
                axis.stairs(heights / len(own), edges, fill=True, color=style.GREY, alpha=FAINT, gid="area")
                filled.append(own)
        else:
            shared = float(median(group["accepted_steps"]))
            low, most = min(low, shared), max(most, shared)
            axis.axvline(shared, gid="joint", **look)
    axis.set(ylabel="share of samples", ylim=(0, None))
    name = "accepted steps (line: shared by all samples)"
    if most > FAR_APART * low:
        style.log_axis(axis.xaxis, pd.Series([float(low), float(most)]), name, units.count)
    else:
        axis.set(xlabel=name)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _edges(low: int, high: int) -> Any:
    """Return the edges of the bins from ``low`` to ``high`` steps: even, or by factors where they are far apart."""
    bins = min(MAX_BINS, high - low + 1)
    if high <= FAR_APART * low:
        return np.linspace(low - 0.5, high + 0.5, bins + 1)
    return np.unique(np.floor(np.geomspace(low, high + 1, bins + 1))) - 0.5
