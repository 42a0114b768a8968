"""How far a sweep is: its runs, their turns, and the time that is left."""

import time
from collections.abc import Callable, Mapping, Sequence

from odegrad.records.record import PASSES, Run
from odegrad.records.rounds import ROUNDS
from odegrad.running.words import duration


def turns_of(run: Run) -> int:
    """Return how many processes measure ``run``: one for each of its passes, several for the rounds of its times."""
    passes = run.passes.split(",") if run.passes else PASSES
    return len(passes) + ("time" in passes) * (ROUNDS - 1)


class Tally:
    """Counts the runs of a sweep, and the processes that measure them, which are its turns.

    Parameters
    ----------
    runs
        All that are to be there at the end; one that is measured twice stands here twice.
    done
        How many of them were there before.
    todo
        Turns of those that are still to be measured; None: of all ``runs``.
    clock
        Tells the time, in seconds.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        done: int = 0,
        todo: Sequence[Run] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.done = len(runs), done
        self.turns, self.turned = sum(map(turns_of, runs if todo is None else todo)), 0
        self.clock, self.begin = clock, clock()
        self.since: float | None = None
        """When the first run started; before, a first process imports torch."""
        self._begun: dict[str, int] = {}

    def started(self) -> None:
        """Take the time from which turns are measured, at the first run."""
        if self.since is None:
            self.since = self.clock()

    def heard(self, run: Run, message: Mapping[str, object]) -> None:
        """Count one turn of ``run`` if ``message`` says that a pass of it has ended."""
        if "ended" in message and self._begun.get(run.run_id, 0) < turns_of(run):
            self._begun[run.run_id] = self._begun.get(run.run_id, 0) + 1
            self.turned += 1

    def finished(self, run: Run) -> None:
        """Count ``run``, and all of its turns: after a failure the others do not come."""
        self.turned += turns_of(run) - self._begun.pop(run.run_id, 0)
        self.done += 1

    def elapsed(self) -> float:
        """Return the seconds since the beginning."""
        return self.clock() - self.begin

    def left(self) -> float | None:
        """Return the seconds that are left if the turns to come take as long as those that were, None before the first.

        It is an estimate: turns are unlike each other.
        """
        if not self.turned or self.since is None:
            return None
        return (self.clock() - self.since) * max(0, self.turns - self.turned) / self.turned

    def words(self) -> str:
        """Return ``3/28 runs, elapsed 0:12, left about 1:40``."""
        left = self.left()
        early = "not known yet" if self.since is not None else "not known yet: a first process starts"
        about = early if left is None else f"about {duration(left)}"
        return f"{self.done}/{self.total} runs, elapsed {duration(self.elapsed())}, left {about}"
