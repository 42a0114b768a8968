"""The page of a history: where figures moved, with what repeats it, and the trends; one self-contained HTML."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from odegrad.reports.figures import trend
from odegrad.reports.figures.drawing import render
from odegrad.reports.page.files import write_texts
from odegrad.reports.page.render import PageTable, data_uri, environment, page_table
from odegrad.reports.tables.columns import PageColumn
from odegrad.reports.tables.table import csv_text
from odegrad.reports.trends import Trends, TrendStep, shown
from odegrad.reports.units import count

MAX_FIGURES = 6
"""Runs whose trends are drawn, those with the latest steps first; the table holds every series."""

MAX_ROWS = 2000
"""Rows of one table of the page; a browser sorts more only slowly."""

_TEXT = ("run", "metric", "before", "after", "change", "verdict", "machine", "why", "suite")
STEPS_SHOWN = tuple(PageColumn(name, name, right=name in {"before", "after", "change"}) for name in _TEXT)
SINCE = PageColumn("since", "since", right=False)
SERIES = (
    *(PageColumn(name, name, right=False) for name in ("run", "metric", "machine", "suite")),
    PageColumn("commits", "commits", count),
    PageColumn("first", "first"),
    PageColumn("last", "last"),
    PageColumn("steps", "steps", count),
)


def rows(trends: Trends, steps: Sequence[TrendStep]) -> list[dict[str, object]]:
    """Return steps as rows of text for a terminal or a file, the latest first."""
    ordered = sorted(steps, key=lambda step: (-step.bad, step.verdict != "regressed", step.run, step.metric))
    names = ("commits", *_names(trends))
    found = [{"commits": trends.between(step.good, step.bad), **_row(step)} for step in ordered]
    return [{name: row[name] for name in names} for row in found]


def repeats(trends: Trends) -> list[str]:
    """Return for every commit range in which something moved the commands that repeat it."""
    return [
        f"{trends.between(good, bad)}: repeat with {command}"
        for good, bad, steps in trends.ranges()
        for command in dict.fromkeys(step.command for step in steps)
    ]


def page(trends: Trends, option: Sequence[str]) -> str:
    """Return the page of a history, as HTML; ``option`` names the history on a command line."""
    columns = [column for column in STEPS_SHOWN if column.value in _names(trends)]
    ranges = [
        {
            "title": trends.between(good, bad),
            "date": trends.marks[bad].date,
            "steps": page_table(columns, _frame([_row(step) for step in steps[:MAX_ROWS]], _TEXT)),
            "commands": list(dict.fromkeys(step.command for step in steps)),
            "log": f"git log {trends.marks[good].sha}..{trends.marks[bad].sha}",
        }
        for good, bad, steps in trends.ranges()
    ]
    drifts = [{"since": trends.marks[step.good].short, **_row(step)} for step in trends.drifts[:MAX_ROWS]]
    drawn, left_out = _figures(trends)
    return (
        environment()
        .get_template("history.html.j2")
        .render(
            sentences=trends.sentences(),
            ranges=ranges,
            drifts=page_table((SINCE, *columns), _frame(drifts, ("since", *_TEXT))),
            overview=data_uri(render(trend.draw_overview(trends), "svg")),
            overview_title=trend.OVERVIEW_TITLE,
            overview_alt=trend.describe_overview(trends),
            figures=drawn,
            left_out=left_out,
            series=_series(trends),
            series_left_out=max(0, len(trends.series) - MAX_ROWS),
            machines=trends.machines,
            command=shlex.join(["odegrad", "history", "report", *option]),
        )
    )


def write(trends: Trends, option: Sequence[str], out: Path) -> list[Path]:
    """Write ``steps.csv`` and, last, ``history.html`` into ``out``, which is made; return the files.

    Raises
    ------
    ResultsError
        If ``out`` cannot be written.
    """
    table = _frame(rows(trends, [*trends.steps, *trends.drifts]), ("commits", *_names(trends)))
    return write_texts({out / "steps.csv": csv_text(table), out / "history.html": page(trends, option)})


def _names(trends: Trends) -> tuple[str, ...]:
    """Return the columns of a table of steps; the suite is named where there are several."""
    one = len({each.suite for each in trends.series}) <= 1
    return tuple(name for name in _TEXT if not (one and name == "suite"))


def _row(step: TrendStep) -> dict[str, object]:
    return {
        "run": step.run, "metric": step.metric, "before": shown(step.metric, step.before),
        "after": shown(step.metric, step.after), "change": step.change, "verdict": step.verdict,
        "machine": step.machine, "why": step.why, "suite": step.suite,
    }  # fmt: skip


def _frame(found: Sequence[dict[str, object]], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(list(found), columns=list(columns))


def _figures(trends: Trends) -> tuple[list[dict[str, str]], int]:
    """Return the figures of the runs that moved last, and how many runs are left out."""
    latest: dict[tuple[str, str], int] = {}
    for step in (*trends.steps, *trends.drifts):
        latest[step.suite, step.run] = max(step.bad, latest.get((step.suite, step.run), 0))
    chosen = sorted(latest, key=lambda key: (-latest[key], key))
    found = []
    for suite, run in chosen[:MAX_FIGURES]:
        figure = trend.draw_run(trends, suite, run)
        if figure is not None:
            metrics = ", ".join(list(trend.moved_metrics(trends, suite, run))[: trend.MAX_PANELS])
            svg = data_uri(render(figure, "svg"))
            found.append({"title": run, "alt": f"{metrics} of {run} over commits", "image": svg})
    return found, max(0, len(chosen) - MAX_FIGURES)


def _series(trends: Trends) -> PageTable:
    counts: dict[tuple[str, str, str, str], int] = {}
    for step in trends.steps:
        key = (step.suite, step.run, step.metric, step.machine)
        counts[key] = counts.get(key, 0) + 1
    found = [
        {
            "run": each.run, "metric": each.metric, "machine": each.machine, "suite": each.suite,
            "commits": len(each.measured), "first": shown(each.metric, each.measured[0]),
            "last": shown(each.metric, each.measured[-1]),
            "steps": counts.get((each.suite, each.run, each.metric, each.machine), 0),
        }
        for each in trends.series
    ]  # fmt: skip
    found.sort(key=lambda row: int(str(row["steps"])), reverse=True)
    return page_table(SERIES, _frame(found[:MAX_ROWS], [column.value for column in SERIES]))
