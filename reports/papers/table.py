"""Claims and their verdicts as rows: for a terminal, as Markdown and as CSV."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from odegrad.reports import units
from odegrad.reports.papers.claim import Arm
from odegrad.reports.papers.verdict import Verdict
from odegrad.reports.tables import markdown_text

COLUMNS = (
    "claim", "task", "verdict", "effect", "low", "high", "needed", "pairs", "seeds", "least_seeds", "reason", "method",
    "baseline", "sentence",
)  # fmt: skip


def claims_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return one row a claim and task, the overall row of each claim first; columns are ``COLUMNS``."""
    return pd.DataFrame(list(_rows(verdicts)), columns=list(COLUMNS))


def _rows(verdicts: Sequence[Verdict]) -> Iterator[dict[str, Any]]:
    for verdict in verdicts:
        claim = verdict.claim
        fixed = {
            "claim": claim.identifier,
            "needed": claim.needed,
            "least_seeds": claim.least_seeds,
            "method": _name(claim.method),
            "baseline": _name(claim.baseline),
            "sentence": claim.sentence,
        }
        for each in (verdict.overall, *verdict.tasks):
            numbers = {name: getattr(each, name) for name in ("task", "effect", "low", "high", "pairs", "seeds")}
            yield fixed | numbers | {"verdict": str(each.answer), "reason": each.reason}


def _name(arm: Arm | None) -> str:
    if arm is None:
        return ""
    options = "".join(f" {key}={value}" for key, value in arm.optimizer_options)
    return f"{arm.gradient}{f'+{arm.optimizer}' if arm.optimizer else ''}{options}"


def interval(low: float, high: float) -> str:
    """Return an interval as text; empty where there is none."""
    return "" if pd.isna(low) else f"{units.significant(low)} to {units.significant(high)}"


def text_rows(verdicts: Sequence[Verdict]) -> list[dict[str, str]]:
    """Return the rows as text for a terminal: without the sentences, the reason last."""
    return [
        {
            "claim": str(row["claim"]),
            "task": str(row["task"]),
            "verdict": str(row["verdict"]),
            "effect": units.significant(row["effect"]),
            "interval": interval(row["low"], row["high"]) or units.MISSING,
            "needed": str(row["needed"]),
            "pairs": str(row["pairs"]),
            "seeds": f"{row['seeds']} of {row['least_seeds']}",
            "reason": str(row["reason"]),
        }
        for row in claims_table(verdicts).to_dict("records")
    ]


def to_markdown(verdicts: Sequence[Verdict]) -> str:
    """Return each claim's sentence with its overall verdict, then the table, as Markdown."""
    said = [
        f"* **{markdown_text(v.claim.identifier)}: {v.overall.answer}.** {markdown_text(v.claim.sentence)}"
        for v in verdicts
    ]
    rows = text_rows(verdicts)
    heads = list(rows[0]) if rows else []
    lines = [heads, [":--"] * len(heads), *([markdown_text(text) for text in row.values()] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines if line)
    return "\n\n".join(["\n".join(said), table]) + "\n"


def to_csv(verdicts: Sequence[Verdict]) -> str:
    """Return ``claims_table`` as CSV: full numbers, empty where there is none."""
    return str(claims_table(verdicts).to_csv(index=False))
