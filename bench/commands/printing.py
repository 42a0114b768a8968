"""Rows as a table or as JSON on standard output."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 250
"""Characters of a line where standard output is no terminal, so that a table in a file or a pipe is not cut."""
MIN_WRAPPED = 24
"""Characters of a table's last column where text is wrapped, at least: a narrower one is hard to read."""


def output() -> Console:
    """Return standard output: a terminal's width, or one that cuts nothing."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def print_rows(rows: Sequence[dict[str, Any]], as_json: bool, title: str, wrap: bool = False) -> None:
    """Print ``rows``, which have the same keys, as a table under ``title`` or as JSON.

    What is too wide for the terminal becomes a block a row, or with ``wrap`` a table in which text is wrapped.
    """
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(rows[0] if rows else ()):
        least = MIN_WRAPPED if wrap and place == len(rows[0]) - 1 else None
        table.add_column(column.replace("_", " "), no_wrap=place == 0, min_width=least)  # a name is whole to be typed
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    console = output()
    natural = Measurement.get(console, console.options.update(max_width=10_000), table)
    if (_least_width(rows, natural.minimum) if wrap else natural.maximum) <= console.width:
        console.print(table)
        return
    console.print(Text(title, style="italic"))
    for row in rows:  # too wide for the terminal: a block a row, in which nothing is cut
        console.print(_block(row))


def _least_width(rows: Sequence[Mapping[str, object]], of_words: int) -> int:
    """Return the width that a table with wrapped text needs; rich leaves the last column's least width out of it."""
    if not rows:
        return of_words
    name = list(rows[0])[-1]
    words = " ".join([name.replace("_", " "), *(_cell(row[name]) for row in rows)]).split()
    return of_words + max(0, MIN_WRAPPED - max(map(len, words), default=0))


def _block(row: Mapping[str, object]) -> Table:
    """Return a row as lines of name and value."""
    block = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    block.add_column(no_wrap=True)
    block.add_column(overflow="fold")
    for place, (name, value) in enumerate(row.items()):
        block.add_row(name.replace("_", " "), Text(_cell(value), style="bold" if place == 0 else ""))
    block.add_row("", "")
    return block


def _cell(value: object) -> str:
    """Return a value as a table shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_cell(v) or 'none'}" for k, v in value.items())
    return "" if value is None else str(value)
