"""A paper's own figures and tables as data: from which of its suites, under which name, and writing them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from odegrad.records.replacing import replace_file
from odegrad.reports.figures.drawing import Drawn, draw_all
from odegrad.reports.figures.kinds import FigureKind
from odegrad.reports.summary import Results
from odegrad.reports.tables.columns import PageColumn
from odegrad.reports.tables.table import csv_text, latex_lines, markdown_lines
from odegrad.reports.units import MISSING


@dataclass(frozen=True)
class PaperFigure:
    """A figure drawn from the records of one suite."""

    suite: str
    kind: FigureKind


@dataclass(frozen=True)
class PaperTable:
    """A table made from the records of one suite."""

    suite: str
    name: str
    """Of the files, without their endings."""
    title: str
    """What a row is and where its numbers come from."""
    columns: tuple[PageColumn, ...]
    rows: Callable[[Results], pd.DataFrame]
    """Numbers in full; written as they are into the CSV file."""


Exhibit = PaperFigure | PaperTable


@dataclass(frozen=True)
class MadeTable:
    """A table with its rows."""

    declared: PaperTable
    frame: pd.DataFrame


@dataclass(frozen=True)
class Shown:
    """What a report shows of a paper."""

    figures: Sequence[Drawn] = ()
    tables: Sequence[MadeTable] = ()
    files: Sequence[Path] = field(default=(), compare=False)


def write_exhibits(exhibits: Sequence[Exhibit], sources: Mapping[str, Results], folder: Path) -> Shown:
    """Write the figures into ``folder/figures``, the tables into ``folder/tables``, and return them.

    Parameters
    ----------
    exhibits
        What to show, in this order.
    sources
        Suite -> its results; exhibits of a suite that is not there are left out.
    folder
        Of the report; made if it is not there.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    figures: list[Drawn] = []
    tables: list[MadeTable] = []
    files: dict[Path, bytes] = {}
    for exhibit in exhibits:
        results = sources.get(exhibit.suite)
        if results is None:
            continue
        if isinstance(exhibit, PaperFigure):
            for each in draw_all(results, [exhibit.kind], processes=1):
                figures.append(each)
                files |= {folder / "figures" / f"{each.name}.{end}": data for end, data in each.files.items()}
        else:
            made = MadeTable(exhibit, exhibit.rows(results))
            tables.append(made)
            files |= {folder / "tables" / f"{exhibit.name}.{end}": text.encode() for end, text in texts(made).items()}
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    return Shown(figures, tables, list(files))


def texts(made: MadeTable) -> dict[str, str]:
    """Return a table as Markdown, LaTeX (booktabs) and CSV, by the endings of files."""
    columns = made.declared.columns
    heads = [(column.heading, column.right) for column in columns]
    rows = [
        [MISSING if pd.isna(value) else column.text(value) for column, value in zip(columns, row, strict=True)]
        for row in made.frame[[column.value for column in columns]].itertuples(index=False)
    ]
    grouped = len({row[0] for row in rows}) < len(rows)  # a rule around every single row is none
    return {
        "md": "\n".join([*markdown_lines(heads, rows), "", made.declared.title, ""]),
        "tex": "\n".join([f"% {made.declared.title}", *latex_lines(heads, rows, grouped), ""]),
        "csv": csv_text(made.frame),
    }
