"""Whether a paper's claim holds in a result set: holds, does not hold, or not decided, with the effect behind it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import pandas as pd

from odegrad.records.columns import COLUMNS
from odegrad.reports.names import joined
from odegrad.reports.papers.claim import Claim
from odegrad.reports.papers.effects import effects
from odegrad.reports.statistics import Interval, bootstrap_interval, finite, median, spread
from odegrad.reports.summary import Results, Source

OVERALL = "all tasks"
IDENTITY = tuple(column.name for column in COLUMNS if not column.measured)


class Answer(StrEnum):
    """What the records say about a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "not decided"


@dataclass(frozen=True)
class Finding:
    """The answer on one task, or on all of them."""

    task: str
    answer: Answer
    effect: float
    """Median over pairs of the claim's statistic; NaN if there is none."""
    low: float
    high: float
    """The 95 % bootstrap interval of the median over pairs: of up to five, their range."""
    pairs: int
    seeds: int
    """Distinct seeds among the pairs; over all tasks, those of the task that has fewest."""
    reason: str = ""
    """Why it is not decided, or where it does not hold; empty otherwise."""
    spread: str = ""
    """What ``low`` and ``high`` are: ``range of 3 seeds``, ``95 % interval of 9 pairs``; empty if there are none."""
    target: float = math.nan
    """Median over pairs of the metric up to which a time was taken, where it is the baseline's."""


@dataclass(frozen=True)
class Verdict:
    """A claim with its findings, one a task in the claim's order, and the overall one."""

    claim: Claim
    tasks: tuple[Finding, ...]
    overall: Finding

    @property
    def wording(self) -> str:
        """Return the answer with what it was decided by: ``holds (on every task by the range of 3 seeds)``."""
        deciding = [each for each in self.tasks if self.overall.answer in {each.answer, Answer.HOLDS}]
        by = joined(dict.fromkeys(each.spread for each in deciding if each.spread))
        if not by:
            return str(self.overall.answer)
        where = "on every task" if len(deciding) == len(self.tasks) else f"on {joined(each.task for each in deciding)}"
        return f"{self.overall.answer} ({where} by the {by})"


def decide(claim: Claim, frame: Source) -> Verdict:
    """Return whether ``claim`` holds in the records.

    On a task it holds if the whole 95 % bootstrap interval of the median effect is on the claim's side of the margin,
    does not hold if the whole interval is on the other side, and is not decided if the interval spans the margin or
    fewer seeds than the claim declares say something. Of up to five pairs that interval is their range, and the
    verdict says so. Overall it holds if it does on every task, does not hold if it
    does not on one, and is not decided otherwise.

    Parameters
    ----------
    claim
        What is compared.
    frame
        Records from ``odegrad.reports.frame.load``; failed runs count as infinite costs. Where a column is missing,
        nothing is decided.
    """
    results = Results.of(frame)
    lacking = [name for name in dict.fromkeys((*IDENTITY, *claim.columns)) if name not in results.frame]
    if lacking:
        reason = f"the records lack {joined(lacking)}"
        tasks = tuple(_open(task, reason) for task in claim.tasks)
        return Verdict(claim, tasks, _open(OVERALL, reason))
    every = effects(claim, results)
    tasks = tuple(_of_task(claim, task, every[every["task"] == task]) for task in claim.tasks)
    return Verdict(claim, tasks, _overall(tasks, every))


def _open(task: str, reason: str) -> Finding:
    return Finding(task, Answer.OPEN, math.nan, math.nan, math.nan, 0, 0, reason)


def _of_task(claim: Claim, task: str, rows: pd.DataFrame) -> Finding:
    known = rows.dropna(subset="effect")
    if known.empty:
        return _open(task, _why_nothing(claim, len(rows)))
    seeds = int(known["seed"].nunique())
    interval = bootstrap_interval(known["effect"])
    said = spread(known["effect"], interval, "seeds" if seeds == len(known) else "pairs")
    answer, reason = _answer(claim, interval, said, seeds)
    target = median(known["target"]) if "target" in known else math.nan
    return Finding(
        task, answer, median(known["effect"]), interval.low, interval.high, len(known), seeds, reason, said, target
    )


def _why_nothing(claim: Claim, rows: int) -> str:
    if claim.baseline is None:
        return "nothing measured: no run that it could be read from"
    if rows == 0:
        return "nothing measured: no run of the method has one of the baseline beside it"
    return "nothing measured: both failed in every pair, or never got there"


def _answer(claim: Claim, interval: Interval, said: str, seeds: int) -> tuple[Answer, str]:
    if seeds < claim.least_seeds:
        return Answer.OPEN, f"too few seeds: {seeds} of at least {claim.least_seeds}"
    low, high = interval.low, interval.high
    if math.isnan(low) or math.isnan(high):
        return Answer.OPEN, "failures on both sides leave no median"
    inside = [claim.within(end, claim.margin) for end in (low, high)]
    if all(inside):
        return Answer.HOLDS, ""
    if any(inside):
        return Answer.OPEN, f"the {said} spans the margin {claim.margin:g}"
    return Answer.FAILS, ""


def _overall(tasks: Sequence[Finding], every: pd.DataFrame) -> Finding:
    answers = {answer: [each.task for each in tasks if each.answer is answer] for answer in Answer}
    if answers[Answer.FAILS]:
        answer, reason = Answer.FAILS, f"not on {joined(answers[Answer.FAILS])}"
    elif answers[Answer.OPEN]:
        answer, reason = Answer.OPEN, f"not decided on {joined(answers[Answer.OPEN])}"
    else:
        answer, reason = Answer.HOLDS, ""
    values = every["effect"]
    interval = bootstrap_interval(values)
    seeds = min(each.seeds for each in tasks)
    said = spread(values, interval, "pairs") if len(finite(values)) else ""
    return Finding(
        OVERALL, answer, median(values), interval.low, interval.high, len(finite(values)), seeds, reason, said
    )
