"""Whether a paper's claim holds in a result set, by the rule of ``decision``, with the effect behind it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from odegrad.records.columns import COLUMNS
from odegrad.reports.names import joined
from odegrad.reports.papers.claim import Claim, Direction, Statistic
from odegrad.reports.papers.decision import Answer, SeedCounts, decide_tasks, together
from odegrad.reports.papers.effects import effects
from odegrad.reports.statistics import ends, finite, least_seeds, median
from odegrad.reports.summary import Results, Source

OVERALL = "all tasks"
IDENTITY = tuple(column.name for column in COLUMNS if not column.measured)


@dataclass(frozen=True)
class TaskVerdict:
    """The answer on one task, or on all of them."""

    task: str
    answer: Answer
    words: str
    """The answer as text: ``holds``, ``seen in 2 of 3``, ``equal within 5 %``."""
    effect: float = math.nan
    """Median over seeds of the claim's statistic; NaN if there is none."""
    low: float = math.nan
    high: float = math.nan
    """What ``spread`` says; NaN over all tasks, whose medians differ."""
    agreeing: int = 0
    """Seeds that lie where the answer says; of ``not decided`` and ``seen`` those on the claim's side."""
    seeds: int = 0
    """Seeds that say something; over all tasks their sum."""
    p_value: float = math.nan
    """Of the answer, or of ``holds`` where nothing is decided; adjusted over the tasks. NaN where nothing is tested."""
    reason: str = ""
    """Why it is not decided, or where it does not hold; empty otherwise."""
    spread: str = ""
    """What ``low`` and ``high`` are: ``range of 3 seeds``, ``99 % interval of 8 seeds``; empty if there are none."""
    target: float = math.nan
    """Median over seeds of the metric up to which a time was taken, where it is the baseline's."""


@dataclass(frozen=True)
class ClaimVerdict:
    """A claim with its answers, one a task in the claim's order, and the overall one."""

    claim: Claim
    tasks: tuple[TaskVerdict, ...]
    overall: TaskVerdict

    @property
    def wording(self) -> str:
        """Return the answer with what it rests on: ``holds (8 of 8 seeds on digits and circles, p = 0.012)``."""
        failing = [each for each in self.tasks if each.answer is Answer.FAILS]
        deciding = failing or [each for each in self.tasks if each.seeds]
        if not deciding:
            return self.overall.words
        mixed = not failing and len({each.answer for each in self.tasks}) > 1
        told: dict[str, list[str]] = {}
        for each in deciding:
            prefix = f"{each.words}, " if mixed and each.answer is not Answer.SEEN else ""
            told.setdefault(f"{prefix}{each.agreeing} of {each.seeds} seeds", []).append(each.task)
        parts = [f"{said} on {joined(tasks)}" for said, tasks in told.items()]
        worst = max((each.p_value for each in deciding if each.answer is not Answer.SEEN), default=math.nan)
        chance = "" if math.isnan(worst) else f"; p {'=' if len(deciding) == 1 else 'at most'} {worst:.2g}"
        return f"{self.overall.words} ({'; '.join(parts)}{chance})"

    @property
    def needed_seeds(self) -> int:
        """Return from how many seeds on it can be decided."""
        return 1 if self.claim.deterministic else least_seeds(len(self.claim.tasks))


def decide(claim: Claim, frame: Source) -> ClaimVerdict:
    """Return whether ``claim`` holds in the records.

    A seed counts once on a task, with the median of its effects there. ``odegrad.reports.papers.decision`` decides the
    tasks together; over all of them the weakest answer counts, since a claim is about each.

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
        return ClaimVerdict(claim, tasks, _open(OVERALL, reason))
    every = effects(claim, results)
    seeds = every.groupby(["task", "seed"], as_index=False)[[n for n in ("effect", "target") if n in every]].median()
    tasks = _of_tasks(claim, seeds, every.groupby("task")["seed"].nunique().to_dict())
    return ClaimVerdict(claim, tasks, _overall(claim, tasks, seeds))


def _open(task: str, reason: str) -> TaskVerdict:
    return TaskVerdict(task, Answer.OPEN, str(Answer.OPEN), reason=reason)


def _of_tasks(claim: Claim, seeds: pd.DataFrame, tried: dict[str, int]) -> tuple[TaskVerdict, ...]:
    values = [finite(seeds["effect"][seeds["task"] == task]) for task in claim.tasks]
    table = np.full((len(values), max(1, *map(len, values))), np.nan)
    for row, each in zip(table, values, strict=True):
        row[: len(each)] = each
    counts = SeedCounts.of(table, claim.margin, claim.direction is Direction.BELOW, claim.band)
    decided = decide_tasks(counts)
    inside = np.minimum(counts.not_less, counts.not_more)
    found = []
    for place, (task, each) in enumerate(zip(claim.tasks, values, strict=True)):
        if not each.size:
            found.append(_open(task, _why_nothing(claim, tried.get(task, 0))))
            continue
        answer, p_value = decided.answers[place], float(decided.p_values[place])
        if claim.deterministic:
            answer, p_value = _by_value(int(counts.favouring[place]), int(counts.opposing[place]), each.size), math.nan
        by = {Answer.EQUAL: inside, Answer.FAILS: counts.opposing}.get(answer, counts.favouring)
        low, high, spread = ends(each, "seeds")
        mine = seeds[seeds["task"] == task]
        target = median(mine["target"]) if "target" in mine else math.nan
        found.append(
            TaskVerdict(
                task, answer, _words(answer, claim, int(by[place]), each.size), median(each), low, high, int(by[place]),
                each.size, math.nan if answer is Answer.SEEN else p_value,
                _why_open(claim, answer, counts, place, tried[task]), spread, target,
            )
        )  # fmt: skip
    return tuple(found)


def _by_value(favouring: int, opposing: int, seeds: int) -> Answer:
    """Return the answer where every seed must give the same."""
    return Answer.HOLDS if favouring == seeds else Answer.FAILS if opposing == seeds else Answer.OPEN


def _words(answer: Answer, claim: Claim, agreeing: int, seeds: int) -> str:
    if answer is Answer.EQUAL:
        return f"equal within {100 * claim.equal_within:g} %"
    return f"seen in {agreeing} of {seeds}" if answer is Answer.SEEN else str(answer)


def _why_nothing(claim: Claim, tried: int) -> str:
    if claim.baseline is None:
        return "nothing measured: no run that it could be read from"
    if tried == 0:
        return "nothing measured: no run of the method has one of the baseline beside it"
    if claim.statistic is Statistic.EQUAL_ERROR:
        return "nothing comparable: no gradient error is common to both sweeps"
    return "nothing measured: both failed in every pair, or never got there"


def _why_open(claim: Claim, answer: Answer, counts: SeedCounts, place: int, tried: int) -> str:
    silent = tried - counts.seeds[place]
    lost = f"; {silent} more say nothing" if silent else ""
    if answer is Answer.SEEN:
        return f"too few seeds: {counts.seeds[place]} of at least {least_seeds(len(claim.tasks))}{lost}"
    if answer is not Answer.OPEN:
        return ""
    if claim.deterministic:
        return "the seeds differ in what should not depend on them"
    ties = counts.seeds[place] - counts.favouring[place] - counts.opposing[place]
    tied = f", {ties} on it" if ties else ""
    return (
        f"{counts.favouring[place]} seeds on its side of {claim.margin:g}, {counts.opposing[place]} beyond{tied}{lost}"
    )


def _overall(claim: Claim, tasks: Sequence[TaskVerdict], seeds: pd.DataFrame) -> TaskVerdict:
    answer = together(np.array([each.answer for each in tasks], dtype=object))
    agreeing, number = sum(each.agreeing for each in tasks), sum(each.seeds for each in tasks)
    told = {Answer.FAILS: "not on", Answer.OPEN: "not decided on", Answer.SEEN: "too few seeds on"}
    of_it = [each.task for each in tasks if each.answer is answer]
    reason = f"{told[answer]} {joined(of_it)}" if answer in told else ""
    if answer is Answer.EQUAL and len(of_it) < len(tasks):
        reason = f"equal on {joined(of_it)}"
    words = _words(answer, claim, agreeing, number)
    return TaskVerdict(OVERALL, answer, words, median(seeds["effect"]), agreeing=agreeing, seeds=number, reason=reason)
