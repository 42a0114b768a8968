"""Figures with one panel a task: a grid of panels and one legend, in as few files as stay readable."""

from collections.abc import Callable, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from odegrad.reports.canvas import style
from odegrad.reports.names import sort_key

FEW_TASKS = 6
"""Up to so many tasks panels are large, and each task may have a row of its own."""
MOST_TASKS = 24
"""Tasks of one file; a figure of more goes on in further files."""
_LARGE, _SMALL = (2, 2.7), (3, 1.9)
"""Panels in a row that spans two columns of a page, and their height in inches: for few tasks and for many."""


def by_task(
    tasks: Sequence[str],
    labels: Sequence[tuple[str, str]],
    columns: int,
    draw: Callable[[Axes, str], None],
    height: float | None = None,
) -> Figure:
    """Return a figure with a panel for each task, which ``draw(axis, task)`` fills, and a legend of ``labels``.

    Parameters
    ----------
    tasks
        In the order of the panels.
    labels
        ``(method, variant)`` in the order of the legend.
    columns
        1 or 2: columns of a page that the figure spans.
    draw
        Draws one panel; its title is the task.
    height
        Of a panel in inches; by default that of the number of tasks.
    """
    per_row, usual = _LARGE if len(tasks) <= FEW_TASKS else _SMALL
    per_row = min(len(tasks), per_row) if columns == 2 else 1
    figure, grid = style.grid(-(-len(tasks) // per_row), per_row, columns, height or usual)
    axes = [axis for row in grid for axis in row]
    for axis, task in zip(axes, tasks, strict=False):
        draw(axis, task)
        axis.set_title(style.drawable(task))
        if len(tasks) > FEW_TASKS:
            for each in (axis.xaxis, axis.yaxis):
                each.set_major_locator(MaxNLocator(4))  # a small panel has room for few, and each costs time
    for axis in axes[len(tasks) :]:
        axis.remove()
    style.legend(figure, labels, columns)
    return figure


def labels_of(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Return every ``(method, variant)`` of ``rows`` in the order of methods."""
    distinct = rows[["method", "variant"]].drop_duplicates()
    keys = [(str(m), str(v)) for m, v in zip(distinct["method"], distinct["variant"], strict=True)]
    return sorted(keys, key=lambda key: sort_key(*key))


def variant_number(labels: Sequence[tuple[str, str]], method: str, variant: str) -> int:
    """Return the place of ``variant`` among those of ``method`` in ``labels``, which decides its dashes."""
    return [v for m, v in labels if m == method].index(variant)
