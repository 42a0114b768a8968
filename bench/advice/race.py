"""Which accurate method is the fastest: timed in rounds until two are told apart, or it is said that they are not."""

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from odegrad.advice.candidates import Candidate
from odegrad.binding import solve_with
from odegrad.measuring.timing import forward_and_backward
from odegrad.reference.allowance import Allowance
from odegrad.reference.subject import Subject
from odegrad.reports.statistics import median_interval

MIN_ROUNDS, MAX_ROUNDS = 7, 60
"""From six rounds on a median of paired ratios has an exact interval of 95 %."""
FEW_ROUNDS = 3
"""After so many rounds a method is timed no more that was never nearly as fast as the two fastest accurate ones."""
FAR_BEHIND = 1.5
"""Its least time is more than so many times the second one's median."""
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


@dataclass
class _Runner:
    """A candidate and its times, a pair a round."""

    candidate: Candidate
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)

    @property
    def accurate(self) -> bool:
        return str(self.candidate.row["verdict"]).startswith("accurate")

    @property
    def sums(self) -> list[float]:
        return [a + b for a, b in zip(self.forward, self.backward, strict=True)]

    def run(self, subject: Subject) -> None:
        there, back = forward_and_backward(subject, solve_with(self.candidate.method, self.candidate.solver))
        self.forward.append(there)
        self.backward.append(back)


def race(
    subject: Subject, candidates: Sequence[Candidate], rounds: int, allowance: Allowance | None = None
) -> Race | None:
    """Time candidates in rounds, forth and back, and fill in their median times; return how the fastest compare.

    Every candidate is timed in the first ``FEW_ROUNDS``, those that may be among the two fastest in all. None where
    fewer than two accurate ones are timed. No round begins that would not end within the allowance; where not even one
    does, what is left has no times.
    """
    allowance, runners = allowance or Allowance(), [_Runner(c) for c in candidates]
    found, started, longest, running = None, time.perf_counter(), 0.0, runners
    for i in itertools.count():
        began = time.perf_counter()
        for runner in running if i % 2 == 0 else running[::-1]:
            if i > 0 or not allowance.over():
                runner.run(subject)
        longest = time.perf_counter() - began
        found = _fastest(runners)
        settled = found is None or found.told_apart or found.same_within is not None
        spent = time.perf_counter() - started > BUDGET_SECONDS or i + 1 >= MAX_ROUNDS
        if allowance.left() <= longest or (i + 1 >= rounds and (settled or spent or rounds < MIN_ROUNDS)):
            break
        if i + 1 == FEW_ROUNDS:
            running = _still_in(runners)
    for runner in runners:
        if runner.forward:
            runner.candidate.row["forward_seconds"] = statistics.median(runner.forward)
            runner.candidate.row["backward_seconds"] = statistics.median(runner.backward)
    return found


def _in_order(runners: Sequence[_Runner]) -> list[_Runner]:
    """Return the accurate ones that were timed, by their median time."""
    good = [r for r in runners if r.accurate and r.forward]
    return sorted(good, key=lambda r: statistics.median(r.sums))


def _still_in(runners: list[_Runner]) -> list[_Runner]:
    """Return those that were nearly as fast as the second of the accurate ones, once at the least."""
    order = _in_order(runners)
    if len(order) < 2:
        return runners
    limit = FAR_BEHIND * statistics.median(order[1].sums)
    return [r for r in runners if min(r.sums) <= limit]


def _fastest(runners: Sequence[_Runner]) -> Race | None:
    order = _in_order(runners)
    if len(order) < 2:
        return None
    first, second = order[:2]
    pairs = list(zip(first.sums, second.sums, strict=False))  # one that fell behind has fewer
    interval = median_interval([b / a for a, b in pairs])
    one, other = (str(r.candidate.row["gradient"]) for r in (first, second))
    return Race(one, other, interval.low, interval.high, len(pairs))
