"""Figures over commits, and where they moved: plain data that a history is told by."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from odegrad.records.columns import COLUMN_OF, Compared
from odegrad.reports import units
from odegrad.reports.names import joined

SHORT = 12
"""Digits of a commit that are shown."""

MAX_SAID = 20
"""Commit ranges that are told in sentences, the latest; tables hold all."""


@dataclass(frozen=True)
class Mark:
    """A commit on the axis of a trend."""

    sha: str
    date: str
    release: str = ""
    parent: str = ""

    @property
    def short(self) -> str:
        """Return the first digits of the commit, and the release that it is."""
        return f"{self.sha[:SHORT]} ({self.release})" if self.release else self.sha[:SHORT]


@dataclass(frozen=True)
class TrendSeries:
    """One metric of one run over commits, on machines whose figures compare."""

    suite: str
    run: str
    metric: str
    machine: str
    """Letter of the machines, of ``Trends.machines``."""
    places: Sequence[int]
    """Which commits, as indices of ``Trends.marks``."""
    measured: Sequence[Any]


@dataclass(frozen=True)
class TrendStep:
    """A move of a series between two commits, or since a release."""

    suite: str
    run: str
    metric: str
    machine: str
    good: int
    """Index of the last commit before it."""
    bad: int
    """Index of the first commit after it; of a drift since a release, the last commit."""
    before: object
    after: object
    change: str
    """By how much, in words."""
    verdict: str
    """regressed, improved or changed."""
    command: str
    """What repeats it in a checkout."""
    why: str = ""


@dataclass(frozen=True)
class Trends:
    """All of a history."""

    marks: Sequence[Mark]
    series: Sequence[TrendSeries]
    steps: Sequence[TrendStep]
    drifts: Sequence[TrendStep]
    """What the last results are away from those of the last release."""
    machines: Mapping[str, str]
    """Letter -> the machine in words."""
    notes: Sequence[str] = ()

    def ranges(self) -> list[tuple[int, int, list[TrendStep]]]:
        """Return the commit ranges in which something moved, the latest first, with their steps, regressions first."""
        found: dict[tuple[int, int], list[TrendStep]] = {}
        for step in self.steps:
            found.setdefault((step.bad, step.good), []).append(step)
        return [
            (good, bad, sorted(steps, key=lambda step: (step.verdict != "regressed", step.run, step.metric)))
            for (bad, good), steps in sorted(found.items(), reverse=True)
        ]

    def between(self, good: int, bad: int) -> str:
        """Return a commit range in words; whether it is a single commit is known where that one names its parent."""
        first, last = self.marks[good], self.marks[bad]
        alone = bad == good + 1 and last.parent == first.sha
        return f"{last.short}" if alone else f"{first.short}..{last.short}"

    def sentences(self) -> list[str]:
        """Return what was followed, where it moved, and what stands away from the last release."""
        runs = len({(each.suite, each.run) for each in self.series})
        values = sum(len(each.measured) for each in self.series)
        ranges = self.ranges()
        said = [
            f"{_many(len(self.marks), 'commit')}, {_many(runs, 'run')}, {_many(len(self.series), 'series')} of "
            f"{_many(values, 'value')}: {_many(len(self.steps), 'step')} in {_many(len(ranges), 'commit range')}."
        ]
        for good, bad, steps in ranges[:MAX_SAID]:
            verdicts = [each.verdict for each in steps]
            counts = [f"{verdicts.count(v)} {v}" for v in ("regressed", "improved", "changed") if v in verdicts]
            names = list(dict.fromkeys(each.metric for each in steps))
            said.append(f"{self.between(good, bad)}: {joined(counts)}: {joined(names)}.")
        if len(ranges) > MAX_SAID:
            said.append(f"{_many(len(ranges) - MAX_SAID, 'earlier commit range')} more.")
        if self.drifts:
            releases = dict.fromkeys(self.marks[each.good].release for each in self.drifts)
            said.append(f"Since release {joined(releases)}: {_many(len(self.drifts), 'series')} stand elsewhere.")
        return [*said, *self.notes]


def to_dict(trends: Trends) -> dict[str, object]:
    """Return commits, steps, drifts, machines and sentences as plain data for JSON; commits by their hash."""

    def named(step: TrendStep) -> dict[str, object]:
        return {**asdict(step), "good": trends.marks[step.good].sha, "bad": trends.marks[step.bad].sha}

    return {
        "said": trends.sentences(),
        "commits": [asdict(mark) for mark in trends.marks],
        "steps": [named(step) for step in trends.steps],
        "drifts": [named(step) for step in trends.drifts],
        "machines": dict(trends.machines),
    }


def unit_of(metric: str) -> str:
    """Return a metric's unit, as the columns of a record have it; empty where it has none."""
    column = COLUMN_OF.get(metric)
    return "" if column is None else column.unit


def shown(metric: str, value: object) -> str:
    """Return a metric's value with its unit, as a reader sees it."""
    if isinstance(value, str):
        return value[:SHORT] if COLUMN_OF[metric].compared is Compared.BITS else value
    return units.of_column(metric, value)


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 or what.endswith("s") else f"{number} {what}s"
