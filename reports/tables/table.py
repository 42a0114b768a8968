"""The table of a result set: on the terminal, as Markdown, CSV and LaTeX booktabs."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from odegrad.records.record import endings
from odegrad.reports import units
from odegrad.reports.machines import disturbed
from odegrad.reports.names import short
from odegrad.reports.spread import with_spread
from odegrad.reports.summary import Results, Source, failures, gap, rows_of, summary
from odegrad.reports.tables.row_texts import calls, peak, times, wall_clock

NOTE = (
    "Medians over the runs that ended ok; from the least to the largest where no seed has the median of calls, or they "
    "lie more than 10 % off in wall-clock or memory. ± is how well a time is known, where that is not to 10 %. "
    "NFE, memory and times are of one iteration at the initial parameters; the "
    "gradient error is relative, against a float64 reference, at the initial and at the trained parameters. Times of "
    "an optimizer that refreshes curvature factors are of an ordinary iteration; wall-clock holds the refreshes. In "
    "brackets, how far a metric is from the best that any model can expect, where that is known."
)
LATEX_NOTE = r"% wider than a column: \resizebox{\textwidth}{!}{...} of package graphicx makes it fit"
LONGEST_MESSAGE = 300
"""Characters of a failure's message on the terminal; records and page hold all of it."""


@dataclass(frozen=True)
class TextColumn:
    """One column as shown: its heading, its text of one summary row, and the side it is aligned to."""

    heading: str
    text: Callable[[Any], str]
    right: bool = True


def label(row: Any) -> str:
    """Return a method's name as shown, with what tells it from its variants: ``adjoint (rtol 0.001)``."""
    return f"{short(row.method)} ({row.variant})" if row.variant else short(row.method)


def metric(row: Any) -> str:
    """Return a metric's value with its name: ``accuracy 0.9556``."""
    return f"{'' if pd.isna(row.metric_name) else row.metric_name} {_metric_value(row)}".strip()


TIMES_SHOWN = (TextColumn("time forward / backward / update", times), TextColumn("wall-clock", wall_clock))
MEASURES = (
    TextColumn("NFE forward / backward", lambda r: f"{calls(r, 'forward')} / {calls(r, 'backward')}"),
    TextColumn(
        "gradient error / trained",
        lambda r: f"{units.error(r.gradient_relative_error)}/{units.error(r.trained_gradient_relative_error)}",
    ),
    TextColumn("peak bytes", peak),
    *TIMES_SHOWN,
    TextColumn("ok", lambda row: f"{row.n_ok}/{row.n}"),
)
COLUMNS_SHOWN = (
    TextColumn("task", lambda row: str(row.task), right=False),
    TextColumn("method", label, right=False),
    TextColumn("metric", metric),
    *MEASURES,
)
"""What a table shows, in this order."""


def print_table(frame: Source, console: Console) -> None:
    """Print the table of ``frame`` and beneath it every run that did not end ``ok``, with its status and message.

    Where the console is too narrow, tasks become headings, and then the times get a table of their own; no number is
    ever cut or wrapped.
    """
    table = with_spread(frame)
    unbounded = console.options.update(max_width=10_000)
    for layout in ([_plain_table(table)], [_grouped_table(table, MEASURES)], _split_tables(table)):
        widths = [console.measure(part, options=unbounded).maximum for part in layout]
        if max(widths) <= console.width:
            break
    for part, width in zip(layout, widths, strict=True):
        part.width = width
        console.print(part, crop=False)
    console.print(Text(NOTE, style="dim"))
    if warning := disturbed(Results.of(frame).cells):
        console.print(Text(warning, style="bold"))
    failed = failures(frame)
    if len(failed):
        of = len(Results.of(frame).cells)
        told = f"{endings(failed['status'])}, of {of} run{'s' if of > 1 else ''}:"
        console.print(Text(f"\n{told}", style="bold"))
    for line in failure_lines(failed):
        text = line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]} …"
        console.print(Text(f"  {text}"), soft_wrap=True)


def failure_lines(failed: pd.DataFrame) -> Iterator[str]:
    """Yield one line per run that did not end ``ok``: task, method, seed, status and message."""
    for row in rows_of(failed):
        message = " ".join(row.message.split()) or "no message"
        yield f"{row.task}, {label(row)}, seed {units.count(row.seed)}: {row.status}: {message}"


def to_markdown(frame: Source) -> str:
    """Return the table as Markdown, with the runs that did not end ``ok`` beneath it."""
    lines = markdown_lines(
        [(c.heading, c.right) for c in COLUMNS_SHOWN],
        [[c.text(row) for c in COLUMNS_SHOWN] for row in rows_of(with_spread(frame))],
    )
    failed = [f"* {markdown_text(line)}" for line in failure_lines(failures(frame))]
    return "\n".join(
        [*lines, "", NOTE, *(["", f"{endings(failures(frame)['status'])}:", "", *failed] if failed else []), ""]
    )


def to_csv(frame: Source) -> str:
    """Return the summary as CSV: full numbers, units in the columns' names, empty where nothing was measured."""
    return csv_text(summary(frame))


def to_latex(frame: Source) -> str:
    r"""Return the table as a LaTeX ``tabular`` with booktabs rules; it needs ``\usepackage{booktabs}``."""
    body = latex_lines(
        [(c.heading, c.right) for c in COLUMNS_SHOWN],
        [[c.text(row) for c in COLUMNS_SHOWN] for row in rows_of(with_spread(frame))],
    )
    failed = [f"% {one_line(line)}" for line in failure_lines(failures(frame))]
    return "\n".join([*failed, LATEX_NOTE, *body, ""])


def markdown_lines(heads: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines of Markdown; ``heads`` are ``(heading, numbers)``, numbers stand to the right."""
    rule = ["--:" if right else ":--" for _, right in heads]
    texts = [[markdown_text(text) for text in row] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in ([heading for heading, _ in heads], rule, *texts)]


def latex_lines(heads: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]], grouped: bool = True) -> list[str]:
    """Return a LaTeX ``tabular`` as lines, ``heads`` as in ``markdown_lines``; with rules between groups if asked."""
    lines: list[str] = []
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before[0] != row[0] and grouped:
            lines.append(r"\midrule")
        cells = (_latex(text, number=right) for text, (_, right) in zip(row, heads, strict=True))
        lines.append(" & ".join(cells) + r" \\")
    first = " & ".join(_latex(heading, number=False) for heading, _ in heads) + r" \\"
    sides = "".join("r" if right else "l" for _, right in heads)
    top = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", first, r"\midrule"]
    return [*top, *lines, r"\bottomrule", r"\end{tabular}"]


def one_line(text: str) -> str:
    """Return ``text`` in one line: what is behind the end of a line would be live in LaTeX and in Markdown."""
    return " ".join(text.split()) if not text.isprintable() else text


def csv_text(table: pd.DataFrame) -> str:
    """Return a table as CSV in which no text is a formula to a program that opens it."""
    shown = table.copy(deep=False)
    for name, column in table.items():
        if not pd.api.types.is_numeric_dtype(column):
            shown[name] = column.map(lambda v: _harmless(v) if isinstance(v, str) else v)
    return str(shown.to_csv(index=False))


def _harmless(text: str) -> str:
    line = one_line(text)
    return f"'{line}" if _FORMULA.match(line) else line


def _metric_value(row: Any) -> str:
    value = units.metric(row.metric_value)
    return value if math.isnan(gap(row)) else f"{value} ({gap(row):+.2f})"


def _plain_table(table: pd.DataFrame) -> Table:
    """Return one line a row, the task first."""
    shown = _empty_table([(_broken(c.heading), c.right) for c in COLUMNS_SHOWN])
    task = None
    for row in rows_of(table):
        if task is not None and row.task != task:
            shown.add_section()
        task = row.task
        shown.add_row(*(Text(c.text(row)) for c in COLUMNS_SHOWN))
    return shown


def _grouped_table(table: pd.DataFrame, columns: Sequence[TextColumn]) -> Table:
    """Return one line a row beneath a heading of its task and metric."""
    shown = _empty_table([("method", False), ("metric", True), *((_broken(c.heading), c.right) for c in columns)])
    for task, rows in table.groupby("task", sort=False):
        names = rows["metric_name"].dropna()
        shown.add_row(Text(str(task), style="bold"), Text(names.iloc[0] if len(names) else ""))
        for row in rows_of(rows):
            shown.add_row(Text(f" {label(row)}"), Text(_metric_value(row)), *(Text(c.text(row)) for c in columns))
        shown.add_section()
    return shown


def _split_tables(table: pd.DataFrame) -> list[Table]:
    """Return the counts and the times as two tables, for a narrow page."""
    times = [c for c in MEASURES if c in TIMES_SHOWN]
    return [_grouped_table(table, [c for c in MEASURES if c not in TIMES_SHOWN]), _grouped_table(table, times)]


def _broken(heading: str) -> str:
    """Return a heading on two lines."""
    place = next((mark for mark in (" / ", "-", " ") if mark in heading), " ")
    return heading.replace(place, f"{place.rstrip(' /')}\n{place.lstrip(' -')}", 1)


def _empty_table(columns: list[tuple[str, bool]]) -> Table:
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for heading, right in columns:
        shown.add_column(Text(heading), justify="right" if right else "left", no_wrap=True)
    return shown


def markdown_text(text: str) -> str:
    """Return ``text`` with what Markdown and HTML would read as markup made harmless."""
    harmless = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", harmless)


_FORMULA = re.compile(r"[=+@]|-(?![\d.]*\d(e[+-]?\d+)?$)(?=.)")
"""What a spreadsheet would compute."""

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "µ": r"\textmu{}",
    "…": r"\ldots{}",
    **{c: f"\\{c}" for c in "&%$#_"},
}


def _latex(text: str, number: bool) -> str:
    """Return ``text`` for LaTeX; in numbers ``1.2e-07`` becomes a power of ten."""
    escaped = "".join(_LATEX.get(c, c) for c in one_line(text))
    if not number:
        return escaped
    return re.sub(r"(\d\.?\d*)e([+-]\d+)", lambda m: rf"${m[1]}\times10^{{{int(m[2])}}}$", escaped)
