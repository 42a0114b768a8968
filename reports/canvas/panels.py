"""Figures with one panel a task: a grid of panels and one legend, in as few files as stay readable."""

from collections.abc import Callable, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from odegrad.reports.canvas import style
from odegrad.reports.names import sort_key
from odegrad.reports.summary import rows_of

FEW_TASKS = 6
"""Up to so many tasks panels are large, and each task may have a row of its own."""
MAX_TASKS = 24
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


def a_panel_per_task(
    rows: pd.DataFrame, columns: int, draw: Callable[[Axes, pd.DataFrame, list[tuple[str, str]]], None], lacking: str
) -> Figure:
    """Return ``by_task`` of all tasks of ``rows``, or a figure that says that no run measured ``lacking``.

    ``draw(axis, rows of the task, labels)`` fills a panel; labels are those of all tasks.
    """
    with style.applied():
        if rows.empty:
            return style.nothing_to_draw(columns, lacking)
        labels = labels_of(rows)
        of_task = {str(task): mine for task, mine in rows.groupby("task", sort=False)}
        return by_task(list(of_task), labels, columns, lambda axis, task: draw(axis, of_task[task], labels))


def in_words(said: str, rows: pd.DataFrame, tell: Callable[[object], str], nothing: str = "No finished run") -> str:
    """Return a figure of one panel a task in words: what is ``said`` of all, then each task with its rows as told."""
    told = [f"{task}: {'; '.join(map(tell, rows_of(mine)))}" for task, mine in rows.groupby("task", sort=False)]
    return f"{said}. {'. '.join(told) or nothing}."


def labels_of(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Return every ``(method, variant)`` of ``rows`` in the order of methods."""
    distinct = rows[["method", "variant"]].drop_duplicates()
    keys = [(str(m), str(v)) for m, v in zip(distinct["method"], distinct["variant"], strict=True)]
    return sorted(keys, key=lambda key: sort_key(*key))


def variant_number(labels: Sequence[tuple[str, str]], method: str, variant: str) -> int:
    """Return the place of ``variant`` among those of ``method`` in ``labels``, which decides its dashes."""
    return [v for m, v in labels if m == method].index(variant)
