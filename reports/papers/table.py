"""Claims and their verdicts as rows: for a terminal, as Markdown, LaTeX and CSV."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from odegrad.reports import units
from odegrad.reports.papers.verdict import ClaimVerdict
from odegrad.reports.summary import rows_of
from odegrad.reports.tables.table import csv_text, latex_lines, markdown_text

CLAIM_COLUMNS = (
    "claim", "task", "verdict", "effect", "low", "high", "spread", "needed", "target", "target_value", "agreeing",
    "seeds", "needed_seeds", "p_value", "reason", "method", "baseline", "sentence",
)  # fmt: skip


def claims_table(verdicts: Sequence[ClaimVerdict]) -> pd.DataFrame:
    """Return one row a claim and task, the overall row of each claim first; columns are ``CLAIM_COLUMNS``."""
    return pd.DataFrame(list(_rows(verdicts)), columns=list(CLAIM_COLUMNS))


def _rows(verdicts: Sequence[ClaimVerdict]) -> Iterator[dict[str, object]]:
    for verdict in verdicts:
        claim = verdict.claim
        fixed = {
            "claim": claim.identifier,
            "needed": claim.needed,
            "needed_seeds": verdict.needed_seeds,
            "target": claim.target,
            "method": claim.method.shown,
            "baseline": "" if claim.baseline is None else claim.baseline.shown,
            "sentence": claim.sentence,
        }
        for each in (verdict.overall, *verdict.tasks):
            names = ("task", "effect", "low", "high", "spread", "agreeing", "seeds", "p_value", "reason")
            found = {name: getattr(each, name) for name in names} | {"target_value": each.target}
            yield fixed | found | {"verdict": each.words}


def interval(row: Any) -> str:
    """Return a row's interval with what it is: ``0.5 to 0.7 (range of 3 seeds)``; empty where there is none."""
    low, high = units.significant(row.low), units.significant(row.high)
    return "" if pd.isna(row.low) else f"{low} to {high} ({row.spread})"


def target(row: Any) -> str:
    """Return up to which metric a row's time was taken, with its number on the task; empty of other quantities."""
    return str(row.target) if pd.isna(row.target_value) else f"{row.target}: {units.significant(row.target_value, 4)}"


def text_rows(verdicts: Sequence[ClaimVerdict]) -> list[dict[str, str]]:
    """Return the rows as text for a terminal: without the sentences, the reason last."""
    return [
        {
            "claim": str(row.claim),
            "task": str(row.task),
            "verdict": str(row.verdict),
            "effect": units.significant(row.effect),
            "interval": interval(row) or units.MISSING,
            "needed": str(row.needed),
            "target": target(row),
            "seeds": f"{row.agreeing} of {row.seeds}",
            "p": units.significant(row.p_value, 2),
            "reason": str(row.reason),
        }
        for row in rows_of(claims_table(verdicts))
    ]


def to_markdown(verdicts: Sequence[ClaimVerdict]) -> str:
    """Return each claim's sentence with its overall verdict, then the table, as Markdown."""
    said = [
        f"* **{markdown_text(v.claim.identifier)}: {markdown_text(v.wording)}.** {markdown_text(v.claim.sentence)}"
        for v in verdicts
    ]
    rows = text_rows(verdicts)
    heads = list(rows[0]) if rows else []
    lines = [heads, [":--"] * len(heads), *([markdown_text(text) for text in row.values()] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines if line)
    return "\n\n".join(["\n".join(said), table]) + "\n"


def to_csv(verdicts: Sequence[ClaimVerdict]) -> str:
    """Return ``claims_table`` as CSV: full numbers, empty where there is none."""
    return csv_text(claims_table(verdicts))


def to_latex(verdicts: Sequence[ClaimVerdict]) -> str:
    r"""Return claim, task, verdict, effect and interval as a LaTeX ``tabular``; it needs ``\usepackage{booktabs}``."""
    heads = [("claim", False), ("task", False), ("verdict", False), ("effect", True), ("interval", True)]
    rows = [[row[name] for name, _ in heads] for row in text_rows(verdicts)]
    return "\n".join([*latex_lines(heads, rows), ""])
