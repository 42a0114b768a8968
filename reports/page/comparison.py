"""What changed between two result sets, as Markdown, CSV and a page."""

import shlex
from pathlib import Path

import pandas as pd

from odegrad.reports import units
from odegrad.reports.page.files import write_texts
from odegrad.reports.page.render import environment, page_table
from odegrad.reports.tables.changes import Changes
from odegrad.reports.tables.columns import PageColumn
from odegrad.reports.tables.table import csv_text, markdown_text

_NAMED = tuple(PageColumn(name, name, right=False) for name in ("task", "method", "variant"))
CHANGES = (
    *_NAMED,
    PageColumn("column", "column", right=False),
    PageColumn("runs", "n", units.count),
    *(PageColumn(name, name, units.significant) for name in ("before", "after")),
    *(PageColumn(name, name, lambda value: units.significant(value, 4)) for name in ("change", "low", "high")),
    PageColumn("verdict", "verdict", right=False),
)
STATUSES = (
    *_NAMED,
    PageColumn("seed", "seed", units.count),
    PageColumn("before", "before", right=False),
    PageColumn("after", "after", right=False),
)


def page(changes: Changes, before: str, after: str) -> str:
    """Return the page of what changed from the results folder ``before`` to ``after``, as HTML."""
    return environment().get_template("changes.html.j2").render(
        before=before,
        after=after,
        sentences=changes.sentences(),
        changes=page_table(CHANGES, changes.table),
        statuses=page_table(STATUSES, changes.statuses),
        command=shlex.join(["odegrad", "compare-results", before, after]),
    )  # fmt: skip


def rows(table: pd.DataFrame) -> list[dict[str, object]]:
    """Return the rows of ``Changes.table`` that are not ``same``, as text for a terminal."""
    shown = table[table["verdict"] != "same"]
    return [
        {c.heading: units.MISSING if pd.isna(row[c.value]) else c.text(row[c.value]) for c in CHANGES}
        for row in shown.to_dict("records")
    ]


def to_markdown(changes: Changes) -> str:
    """Return the outcome and the table as Markdown."""
    heads = [c.heading for c in CHANGES]
    lines = [heads, ["--:" if c.right else ":--" for c in CHANGES]]
    lines += [[markdown_text(str(row[head])) for head in heads] for row in rows(changes.table)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([*map(markdown_text, changes.sentences()), table]) + "\n"


def write(changes: Changes, before: str, after: str, out: Path) -> list[Path]:
    """Write ``changes.md``, ``changes.csv`` and ``changes.html`` into ``out``, which is made; return the files.

    Raises
    ------
    ResultsError
        If ``out`` cannot be written.
    """
    return write_texts(
        {
            out / "changes.md": to_markdown(changes),
            out / "changes.csv": csv_text(changes.table),
            out / "changes.html": page(changes, before, after),
        }
    )
