"""Which accurate method is the fastest: timed in rounds until two are told apart, or it is said that they are not."""

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from odegrad.advice.candidates import Candidate
from odegrad.binding import solve_with
from odegrad.measuring.timing import forward_and_backward
from odegrad.reference.subject import Subject
from odegrad.reports.statistics import median_interval

MIN_ROUNDS, MAX_ROUNDS = 7, 60
"""From six rounds on a median of paired ratios has an exact interval of 95 %."""
BUDGET_SECONDS = 15.0
"""No round begins later than this after the first, beyond those that were asked for."""
SAME = 0.04
"""Two methods whose times surely differ by less count as equally fast."""


@dataclass(frozen=True)
class Race:
    """The two fastest accurate methods, and how their times compare, round by round."""

    first: str
    second: str
    low: float
    high: float
    """Interval of 95 % of the second's time over the first's, paired by rounds; NaN where there are too few rounds."""
    rounds: int

    @property
    def told_apart(self) -> bool:
        """Return whether one of the two is surely faster."""
        return self.low > 1.0 or self.high < 1.0

    @property
    def same_within(self) -> float | None:
        """Return within what share of each other both surely are, if that is little; None otherwise."""
        apart = max(self.high - 1.0, 1.0 / self.low - 1.0)
        return apart if apart <= SAME else None


def race(subject: Subject, candidates: Sequence[Candidate], rounds: int) -> Race | None:
    """Time all candidates in rounds, forth and back, and fill in their median times; return how the fastest compare.

    None where fewer than two are accurate.
    """
    forward: dict[int, list[float]] = {id(c): [] for c in candidates}
    backward: dict[int, list[float]] = {id(c): [] for c in candidates}
    good = [c for c in candidates if str(c.row["verdict"]).startswith("accurate")]
    found, started = None, time.perf_counter()
    for i in itertools.count():
        for c in candidates if i % 2 == 0 else candidates[::-1]:
            there, back = forward_and_backward(subject, solve_with(c.method, c.solver))
            forward[id(c)].append(there)
            backward[id(c)].append(back)
        found = _fastest(good, {key: _sums(there, backward[key]) for key, there in forward.items()})
        settled = found is None or found.told_apart or found.same_within is not None
        spent = time.perf_counter() - started > BUDGET_SECONDS or i + 1 >= MAX_ROUNDS
        if i + 1 >= rounds and (settled or spent or rounds < MIN_ROUNDS):
            break
    for c in candidates:
        c.row["forward_seconds"] = statistics.median(forward[id(c)])
        c.row["backward_seconds"] = statistics.median(backward[id(c)])
    return found


def _sums(forward: Sequence[float], backward: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip(forward, backward, strict=True)]


def _fastest(good: Sequence[Candidate], seconds: dict[int, list[float]]) -> Race | None:
    if len(good) < 2:
        return None
    first, second = sorted(good, key=lambda c: statistics.median(seconds[id(c)]))[:2]
    pairs = zip(seconds[id(first)], seconds[id(second)], strict=True)
    interval = median_interval([b / a for a, b in pairs])
    return Race(first.row["gradient"], second.row["gradient"], interval.low, interval.high, len(seconds[id(first)]))
