"""One self-contained HTML page of a result set: no network, light and dark, everything escaped."""

import base64
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from odegrad.records.columns import COLUMNS
from odegrad.reports import units
from odegrad.reports.contrasts import contrasts
from odegrad.reports.figures.drawing import Drawn, draw_all
from odegrad.reports.machines import disturbed
from odegrad.reports.names import joined
from odegrad.reports.page.answers import answers
from odegrad.reports.page.findings import findings, outcome
from odegrad.reports.page.interactive import interactive_figures, script
from odegrad.reports.page.libraries import LIBRARIES_SHOWN, libraries_table, sentences
from odegrad.reports.papers.exhibits import Shown
from odegrad.reports.papers.table import claims_table, interval, target
from odegrad.reports.papers.verdict import ClaimVerdict
from odegrad.reports.spread import with_spread
from odegrad.reports.summary import Results, Source, failures, gap, rows_of
from odegrad.reports.tables.across import ACROSS_RATIOS, across
from odegrad.reports.tables.columns import (
    ACROSS_SHOWN,
    CLAIMS_SHOWN,
    OPTIMIZERS_SHOWN,
    RESULTS_SHOWN,
    RUNS_SHOWN,
    TRIALS_SHOWN,
    PageColumn,
)
from odegrad.reports.tables.optimizers import optimizers
from odegrad.reports.tables.row_texts import interval_text, metric_ends
from odegrad.reports.tables.table import NOTE, label
from odegrad.reports.tables.tuning import trials

LEAD = "work_precision"
"""The figure that stands with the answers: what no method beats in time and error is seen in it."""
MAX_RUNS = 2000
"""Runs that the page lists; a browser sorts more than that only slowly."""


@dataclass(frozen=True)
class PageCell:
    """What a cell shows, and what it sorts by; empty sorts last."""

    text: str
    value: str


@dataclass(frozen=True)
class PageTable:
    """A table on the page."""

    columns: Sequence[PageColumn]
    rows: Sequence[Sequence[PageCell]]


def environment() -> Environment:
    """Return where templates of pages come from; whatever is put into them is escaped."""
    return Environment(
        loader=PackageLoader("odegrad.reports.page", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(
    frame: Source,
    figures: Sequence[Drawn] | None = None,
    verdicts: Sequence[ClaimVerdict] = (),
    shown: Shown | None = None,
) -> str:
    """Return the page of ``frame`` as HTML.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``; may be empty.
    figures
        As ``write_figures`` drew them; drawn here if left out.
    verdicts
        On the claims of a paper; without any the page has no section of claims.
    shown
        A paper's own figures and tables, which come behind the claims.

    Returns
    -------
    str
        The whole page, with style, script and figures inside.
    """
    results = Results.of(frame)
    every = results.frame
    suites = list(dict.fromkeys(every["suite"].dropna()))
    if figures is None:
        figures = draw_all(results, formats=("svg",))
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            suites=joined(suites) or "no runs",
            commands=_commands(every, verdicts),
            answers=answers(results),
            outcome=outcome(results),
            disturbed=disturbed(results.cells),
            findings=findings(results),
            verdicts=verdicts,
            claims=_claims(verdicts),
            paper_figures=[_figure(each) for each in (shown.figures if shown else ()) if each.files],
            paper_tables=[
                {
                    "name": made.declared.name,
                    "title": made.declared.title,
                    "table": page_table(made.declared.columns, made.frame),
                }
                for made in (shown.tables if shown else ())
            ],
            libraries=sentences(contrasts(results)),
            libraries_table=page_table(LIBRARIES_SHOWN, libraries_table(contrasts(results))),
            note=NOTE,
            results=_results(results),
            across=_across(results),
            optimizers=_optimizers(results),
            tuning=page_table(TRIALS_SHOWN, trials(every)),
            runs=_runs(results.cells.head(MAX_RUNS)),
            left_out=max(0, len(results.cells) - MAX_RUNS),
            lead=[_figure(each) for each in figures if each.files and each.name == LEAD],
            figures=[_figure(each) for each in figures if each.files and each.name != LEAD],
            interactive=interactive_figures(results),
            interactive_script=script(),
            not_drawn=[
                f"{each.title}: {each.why_not}"
                for each in (*(shown.figures if shown else ()), *figures)
                if each.why_not
            ],
            failed=_failed(results),
            failed_left_out=max(0, len(results.failures) - MAX_RUNS),
            machines=_machines(every),
            glossary=COLUMNS,
        )
    )


def _commands(frame: pd.DataFrame, verdicts: Sequence[ClaimVerdict]) -> list[str]:
    """Return the commands that measure the same runs again: those of a paper's claims by one of their own."""
    if verdicts:
        papers = dict.fromkeys(verdict.claim.paper for verdict in verdicts)
        sizes = frame["size"].dropna().unique()
        return [shlex.join(["odegrad", "paper", paper, "--size", size]) for paper in papers for size in sizes]
    shipped = {file.name for file in resources.files("odegrad.suites").iterdir()}
    files = {suite: f"{suite}.toml" for suite in frame["suite"].dropna().unique()}
    names = [suite if file in shipped else file for suite, file in files.items()]
    return [shlex.join(["odegrad", "run", name]) for name in names] or ["odegrad run SUITE"]


def _results(frame: Source) -> PageTable:
    table = with_spread(frame)
    return page_table(RESULTS_SHOWN, table.assign(
        label=[label(row) for row in rows_of(table)],
        ok=[f"{r.n_ok}/{r.n}" for r in rows_of(table)],
        gap=[gap(r) for r in rows_of(table)],
        interval=[metric_ends(row) for row in rows_of(table)],
    ))  # fmt: skip


def _claims(verdicts: Sequence[ClaimVerdict]) -> PageTable:
    table = claims_table(verdicts)
    return page_table(CLAIMS_SHOWN, table.assign(
        interval=[interval(row) for row in rows_of(table)], target=[target(row) for row in rows_of(table)]
    ))  # fmt: skip


def _across(frame: Source) -> PageTable:
    table = across(frame)
    texts = {"ok": [f"{r.n_ok}/{r.n}" for r in rows_of(table)]}
    for name in (*ACROSS_RATIOS, "score"):
        ends = zip(table[f"{name}_low"], table[f"{name}_high"], strict=True)
        texts[f"{name}_interval"] = [interval_text(*each, units.significant) for each in ends]
    for name in ACROSS_RATIOS:
        counts = zip(table[f"{name}_n_ok"], table[f"{name}_n"], strict=True)
        texts[f"{name}_pairs"] = [f"{ok}/{number}" for ok, number in counts]
    return page_table(ACROSS_SHOWN, table.assign(**texts))


def _optimizers(frame: Source) -> PageTable:
    table = optimizers(frame)
    texts = {
        f"{name}_interval": [
            interval_text(*each, text) for each in zip(table[f"{name}_low"], table[f"{name}_high"], strict=True)
        ]
        for name, text in (("iterations", units.significant), ("seconds", units.seconds))
    }
    texts["label"] = [label(row) for row in rows_of(table)]
    texts["reached"] = [f"{row.n_reached}/{row.n}" for row in rows_of(table)]
    return page_table(OPTIMIZERS_SHOWN, table.assign(**texts))


def _runs(table: pd.DataFrame) -> PageTable:
    return page_table(RUNS_SHOWN, table.assign(label=[label(row) for row in rows_of(table)]))


def page_table(columns: Sequence[PageColumn], table: pd.DataFrame) -> PageTable:
    """Return the rows of ``table`` as cells of text and value."""
    by_column = [
        [_cell(column, value) for value in table[column.value]]
        if column.of_row is None
        else [_cell(column, getattr(row, column.value), row) for row in rows_of(table)]
        for column in columns
    ]
    return PageTable(columns, list(zip(*by_column, strict=True)))


def _cell(column: PageColumn, value: object, row: object = None) -> PageCell:
    if pd.isna(value):
        return PageCell(units.MISSING, "")
    # JavaScript's Number reads "Infinity", not Python's "inf"
    infinite = isinstance(value, float) and math.isinf(value)
    text = column.text(value) if column.of_row is None else column.of_row(row)
    return PageCell(text, str(value).replace("inf", "Infinity") if infinite else str(value))


def _figure(each: Drawn) -> dict[str, str]:
    """Return a figure with its text; where the tasks are few, a narrow one for phones too."""
    narrow = data_uri(each.narrow) if each.narrow else ""
    return {
        "name": each.name,
        "title": each.title,
        "alt": each.alt,
        "reads": each.reads,
        "wide": data_uri(each.files["svg"]),
        "narrow": narrow,
    }


def data_uri(svg: bytes) -> str:
    """Return an SVG file as an address that holds it, so that the page needs no other file."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _failed(frame: Source) -> list[dict[str, str]]:
    return [
        {
            "method": label(row),
            "task": str(row.task),
            "seed": units.count(row.seed),
            "status": str(row.status),
            "message": str(row.message) or "no message",
        }
        for row in rows_of(failures(frame).head(MAX_RUNS))
    ]


def _machines(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Return each distinct machine with the number of its runs, the most used first."""
    machines, told = frame["machine"].dropna(), dict[int, str]()
    for machine in machines:
        if id(machine) not in told:  # rows of one machine share its description
            told[id(machine)] = json.dumps(machine)
    texts = machines.map(lambda machine: told[id(machine)])
    return [
        {"runs": int(number), "entries": [(k, _plain(k, v)) for k, v in json.loads(str(text)).items()]}
        for text, number in texts.value_counts().items()
    ]


def _plain(name: str, value: Any) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return units.memory(value)
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items()) or units.MISSING
    return units.MISSING if value is None else str(value)
