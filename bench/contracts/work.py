"""What the steps of a solve have cost beside their number: Newton iterations, and rounds of a batch."""

from dataclasses import dataclass, fields, replace
from typing import Self


@dataclass(frozen=True)
class ImplicitWork:
    """What an implicit step, or the pull-back through one, has cost beside its f calls for stages."""

    newton: int = 0
    """Newton iterations, an f call each, of an attempt that was accepted, or of a step that was redone."""
    newton_lost: int = 0
    """Newton iterations of attempts that were rejected or failed."""
    failures: int = 0
    """Attempts that failed because Newton's iteration solved a stage not."""
    jacobians: int = 0
    """Times and states at which the field was linearised: an f call with a graph each."""
    factorisations: int = 0
    """Linear systems that were factorised; with GMRES, set up."""
    solves: int = 0
    """Right-hand sides that were solved for."""
    products: int = 0
    """Pull-backs that formed Jacobians: one for each row, or one for all rows where they were vectorised."""
    rest: int = 0
    """Calls of the half of a split field that is not stiff, of any attempt or of a step that was redone."""

    explicit_steps: int = 0
    """Accepted steps of a solver that switches that were explicit."""
    explicit_steps_lost: int = 0
    """Attempts of explicit steps of such a solver that were not accepted."""

    def lost(self) -> Self:
        """Return the same work of an attempt that was not accepted."""
        return replace(
            self,
            newton=0,
            newton_lost=self.newton + self.newton_lost,
            explicit_steps=0,
            explicit_steps_lost=self.explicit_steps + self.explicit_steps_lost,
        )

    def __add__(self, other: Self) -> Self:
        """Return both together."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return replace(self, **sums)


@dataclass(frozen=True)
class RowCounts:
    """The rounds of one solve in which every sample has its own steps; a row is a sample in one f call."""

    start_calls: int
    """The f calls before the first round."""
    start_rows: int
    """Their rows."""
    widths: tuple[int, ...]
    """The rows of each round, those of samples that rest included."""
    accepting: tuple[int, ...]
    """The accepted steps of each round in which any was."""
    accepted: tuple[tuple[int, ...], ...]
    """``[K - 1][batch]``: the accepted steps of each interval between outputs, of each sample."""
    attempted: tuple[int, ...]
    """``[batch]``: the attempted steps of each sample, ``M_i``."""
    systems: tuple[int, int] | None = None
    """Of implicit rounds their f calls, at Newton's iterations and for Jacobians, and the rows of these; else None."""
    newton: tuple[tuple[tuple[int, ...], ...], ...] = ()
    """``[batch][N_i][stages]``: Newton's iterations at the solved stages of each sample's accepted implicit steps."""
    read: tuple[tuple[int, ...], ...] = ()
    """``[batch][N_i]``: the outputs read inside of each sample's accepted steps; empty where every one ends a step."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Return the accepted steps of each sample, ``N_i``."""
        return tuple(map(sum, zip(*self.accepted, strict=True)))

    @property
    def rounds(self) -> int:
        """Return the rounds: the most steps that a sample has attempted."""
        return len(self.widths)

    def calls(self, s: int) -> int:
        """Return the f calls, of ``s`` explicit stages a round."""
        return self.start_calls + (s * self.rounds if self.systems is None else self.systems[0])

    def rows(self, s: int) -> int:
        """Return the rows of all f calls."""
        return self.start_rows + (s * sum(self.widths) if self.systems is None else self.systems[1])

    def useful_rows(self, s: int) -> int:
        """Return the rows of samples that had a step to take."""
        return self.start_rows + s * sum(self.attempted)
