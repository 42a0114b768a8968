"""A claim of a paper as data: what is compared, on what, with which statistic, and what counts as equal."""

from dataclasses import dataclass
from enum import StrEnum

from odegrad.errors import UsageError
from odegrad.records.record import Options
from odegrad.reports.papers.quantity import BASELINE_TARGET_SECONDS, SWEPT_ERROR, TARGET_SECONDS, columns_of

SAME_METRIC = 0.02
"""By how much a final metric may be worse, relative to its size, and still count as the same; our choice."""
SAME_COST = 0.05
"""By how much seconds or calls may differ and still count as the same; our choice."""


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
    EQUAL_ERROR = "ratio at equal gradient error"
    """The method's quantity over the baseline's where both have the same gradient error, over a tolerance sweep."""


WITHOUT_BASELINE = frozenset({Statistic.EXPONENT, Statistic.VALUE})
RATIOS = frozenset({Statistic.RATIO, Statistic.EQUAL_ERROR})


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
    gradient_options: Options = ()
    """All options of the gradient method that a run has."""
    solver: str = ""
    """Empty: any, which is then the same on both sides of a pair."""
    dtype: str = ""
    """Empty: any, with any precision."""
    precision: str = ""
    """Of the field alone, where ``dtype`` is named; empty: that of ``dtype``."""

    @property
    def shown(self) -> str:
        """Return the arm's name: ``adjoint+snopt t1_policy=feedback``, ``aca on kencarp4``."""
        options = "".join(f" {key}={value}" for key, value in (*self.gradient_options, *self.optimizer_options))
        solver = f" on {self.solver}" if self.solver else ""
        types = f" in {self.dtype}" if self.dtype else ""
        types += f", f in {self.precision}" if self.precision else ""
        return f"{self.gradient}{f'+{self.optimizer}' if self.optimizer else ''}{options}{solver}{types}"


@dataclass(frozen=True)
class Claim:
    """One claim of a paper.

    Raises
    ------
    UsageError
        If it names no task, lacks a baseline that its statistic needs, takes its target from a baseline without
        comparing with it, calls equal what its margin already allows, or names the solver of one arm alone.
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
    equal_within: float = 0.0
    """Share of the baseline up to which a difference counts as none; 0: that is no answer to this claim."""
    deterministic: bool = False
    """Whether every seed must give the same, so that one decides by its value and nothing is tested."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UsageError(f"claim {self.identifier}: expected at least one task, got none; name one")
        if self.quantity == BASELINE_TARGET_SECONDS and self.statistic is not Statistic.RATIO:
            raise UsageError(
                f"claim {self.identifier}: {self.quantity}: expected a ratio to the baseline, got {self.statistic}"
            )
        if self.equal_within and self.margin != (1.0 if self.statistic in RATIOS else 0.0):
            raise UsageError(
                f"claim {self.identifier}: equal_within: expected 0 where the margin is not that of no difference, got "
                f"{self.equal_within} beside margin {self.margin:g}; leave it out"
            )
        if self.baseline is not None and bool(self.method.solver) != bool(self.baseline.solver):
            raise UsageError(
                f"claim {self.identifier}: solver: expected one for both arms or for none, got "
                f"{self.method.solver or 'none'!r} and {self.baseline.solver or 'none'!r}; name both"
            )
        if (self.baseline is None) != (self.statistic in WITHOUT_BASELINE):
            raise UsageError(
                f"claim {self.identifier}: baseline: expected one for a ratio or a change and none for other "
                f"statistics, got {self.baseline} for {self.statistic}; give or drop it"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of a record that it is decided from, beside the run's own fields."""
        more = {Statistic.EXPONENT: ("accepted_steps",), Statistic.EQUAL_ERROR: (SWEPT_ERROR,)}
        return ("status", *columns_of(self.quantity), *more.get(self.statistic, ()))

    @property
    def band(self) -> tuple[float, float] | None:
        """Return between which effects the two sides count as equal; None if that is no answer to it."""
        if not self.equal_within:
            return None
        within = self.equal_within
        return (1.0 / (1.0 + within), 1.0 + within) if self.statistic in RATIOS else (-within, within)

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
    def needed(self) -> str:
        """Return what the effect must be, as text: ``ratio of target_seconds < 1``."""
        sign = "<" if self.direction is Direction.BELOW else ">"
        return f"{self.statistic} of {self.quantity} {sign} {self.margin:g}"
