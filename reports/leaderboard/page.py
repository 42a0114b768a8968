"""The page of a leaderboard, and the same as a table."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from odegrad.reports import units
from odegrad.reports.leaderboard.ranking import Contest, Standing, contests
from odegrad.reports.leaderboard.submissions import Submission, contested
from odegrad.reports.page.files import write_texts
from odegrad.reports.page.render import environment
from odegrad.reports.statistics import MIN_VALUES
from odegrad.reports.tables.row_texts import interval_text
from odegrad.reports.tables.table import csv_text


def page(submissions: Sequence[Submission], found: Sequence[Contest]) -> str:
    """Return the leaderboard as HTML: one file that asks for no other."""
    kinds = {
        kind: [_shown(contest, number) for number, contest in enumerate(found) if contest.kind == kind]
        for kind in dict.fromkeys(contest.kind for contest in found)
    }
    return environment().get_template("leaderboard.html.j2").render(
        submissions=[{"name": each.name, "facts": each.facts()} for each in submissions],
        kinds=kinds,
        fewest=MIN_VALUES,
        command=shlex.join(["odegrad", "leaderboard", *(each.name for each in submissions)]),
    )  # fmt: skip


def table(found: Sequence[Contest]) -> pd.DataFrame:
    """Return one row a method and contest: where it stands, and on what that rests."""
    rows = [
        {
            "kind": contest.kind, "quantity": contest.quantity.title, "machine": contest.machine,
            "rank_first": each.first, "rank_last": each.last, "method": each.method, "library": each.library,
            "effect": each.effect, "low": each.low, "high": each.high, "baseline": contest.baseline,
            "blocks_ok": each.n_ok, "blocks": each.n, "tasks": ", ".join(contest.tasks),
        }
        for contest in found
        for each in contest.standings
    ]  # fmt: skip
    return pd.DataFrame(rows)


def write(submissions: Sequence[Submission], out: Path) -> tuple[list[Contest], list[Path]]:
    """Write ``leaderboard.csv`` and, last, ``leaderboard.html`` into ``out``, which is made; return contests and files.

    Raises
    ------
    ResultsError
        If ``out`` cannot be written.
    """
    found = contests(contested(submissions))
    texts = {out / "leaderboard.csv": csv_text(table(found)), out / "leaderboard.html": page(submissions, found)}
    return found, write_texts(texts)


def _shown(contest: Contest, number: int) -> dict[str, object]:
    what = "ratio to" if contest.quantity.relative else "behind"
    return {
        "id": f"contest-{number}",
        "title": contest.quantity.title,
        "machine": contest.machine,
        "sentence": contest.sentence,
        "tasks": ", ".join(contest.tasks),
        "effect": f"{what} {contest.baseline}",
        "standings": [_row(each, contest) for each in contest.standings],
    }


def _row(each: Standing, contest: Contest) -> dict[str, object]:
    methods = len(contest.standings)
    sole = methods > 1 and each.first == each.last == 1
    return {
        "rank": each.rank,
        "order": each.first + each.last / 1000,
        "left": round(100 * (each.first - 1) / methods, 2),
        "width": round(100 * (each.last - each.first + 1) / methods, 2),
        "first": sole,
        "method": each.method,
        "library": each.library,
        "effect": units.significant(each.effect),
        "effect_value": "" if math.isnan(each.effect) else str(each.effect).replace("inf", "Infinity"),
        "interval": "" if each.method == contest.baseline else interval_text(each.low, each.high, units.significant),
        "blocks": f"{each.n_ok}/{each.n}",
    }
