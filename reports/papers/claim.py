"""A claim of a paper as data: what is compared, on what, with which statistic, and from how many seeds at least."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from odegrad.errors import UsageError
from odegrad.records.record import Options
from odegrad.reports.papers.quantity import BASELINE_TARGET_SECONDS, TARGET_SECONDS, columns_of

SAME_METRIC = 0.02
"""By how much a final metric may be worse, relative to its size, and still count as the same; our choice."""


class Statistic(StrEnum):
    """What number a pair of runs, or the runs of one arm, give."""

    RATIO = "ratio"
    """The method's quantity over the baseline's in the same block."""
    CHANGE = "relative change"
    """The method's quantity minus the baseline's, relative to the baseline's size, in the same block."""
    EXPONENT = "exponent in steps"
    """The slope of log quantity against log accepted steps, over the method's runs of one seed: 0 is O(1)."""
    VALUE = "value"
    """The method's quantity itself."""


class Direction(StrEnum):
    """On which side of the margin the effect must be."""

    BELOW = "below"
    ABOVE = "above"


@dataclass(frozen=True)
class Arm:
    """The runs of one side of a claim."""

    gradient: str
    optimizer: str = ""
    """Empty: any, which is the task's own where a suite leaves it open."""
    optimizer_options: Options = ()
    """Options that a run must have; a policy of the end time that is not named here must not be set."""

    @property
    def shown(self) -> str:
        """Return the arm's name: ``adjoint+snopt t1_policy=feedback``."""
        options = "".join(f" {key}={value}" for key, value in self.optimizer_options)
        return f"{self.gradient}{f'+{self.optimizer}' if self.optimizer else ''}{options}"


@dataclass(frozen=True)
class Claim:
    """One claim of a paper.

    Raises
    ------
    UsageError
        If it names no task, needs no seed, lacks a baseline that its statistic needs, or takes its target from a
        baseline without comparing with it.
    """

    identifier: str
    paper: str
    sentence: str
    """The claim in our own words."""
    tasks: tuple[str, ...]
    method: Arm
    baseline: Arm | None
    quantity: str
    """A column of a record, or one of ``odegrad.reports.papers.quantity.DERIVED``."""
    statistic: Statistic
    margin: float
    tolerance: float = 0.0
    """Of a time to the baseline's final metric: how much worse, relative to its size, still counts as reached."""
    suite: str = ""
    """Of the paper's suites the one whose records decide it; empty: the first."""
    direction: Direction = Direction.BELOW
    least_seeds: int = 3

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UsageError(f"claim {self.identifier}: expected at least one task, got none; name one")
        if self.quantity == BASELINE_TARGET_SECONDS and self.statistic is not Statistic.RATIO:
            raise UsageError(
                f"claim {self.identifier}: {self.quantity}: expected a ratio to the baseline, got {self.statistic}"
            )
        if self.least_seeds < 1:
            raise UsageError(f"claim {self.identifier}: least_seeds: expected at least 1, got {self.least_seeds}")
        if (self.baseline is None) != (self.statistic in {Statistic.EXPONENT, Statistic.VALUE}):
            raise UsageError(
                f"claim {self.identifier}: baseline: expected one for a ratio or a change and none for other "
                f"statistics, got {self.baseline} for {self.statistic}; give or drop it"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of a record that it is decided from, beside the run's own fields."""
        steps = ("accepted_steps",) if self.statistic is Statistic.EXPONENT else ()
        return ("status", *columns_of(self.quantity), *steps)

    @property
    def target(self) -> str:
        """Return the metric up to which a time to a target is taken, as text; empty for other quantities."""
        if self.quantity == TARGET_SECONDS:
            return "the task's own target"
        if self.quantity != BASELINE_TARGET_SECONDS or self.baseline is None:
            return ""
        allowed = f", up to {100 * self.tolerance:g} % worse" if self.tolerance else ""
        return f"final metric of {self.baseline.shown}{allowed}"

    @property
    def within(self) -> Callable[[float, float], bool]:
        """Return the comparison that an effect and the margin must pass."""
        return operator.lt if self.direction is Direction.BELOW else operator.gt

    @property
    def needed(self) -> str:
        """Return what the effect must be, as text: ``ratio of target_seconds < 1``."""
        sign = "<" if self.direction is Direction.BELOW else ">"
        return f"{self.statistic} of {self.quantity} {sign} {self.margin:g}"
