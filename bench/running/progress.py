"""What a sweep tells while it runs: a table that fills on standard error, or plain lines in a log."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from rich.console import Console
from rich.live import Live

from odegrad.records.record import Record, Run
from odegrad.running.board import Board
from odegrad.running.mode import ProgressMode
from odegrad.running.tally import Tally
from odegrad.running.words import describe, duration, found_in, iteration_time, log_end

REFRESHES = 1.0
"""Redraws per second: enough to look alive, few enough not to disturb the clock of a run."""

_log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Hears of a sweep's runs."""

    def started(self, run: Run) -> None:
        """Hear that ``run`` has started."""
        ...

    def heard(self, run: Run, message: Mapping[str, object]) -> None:
        """Hear what ``run`` reports, for example ``{"pass": "train", "iteration": 12, "of": 80, "loss": 0.31}``.

        At the end of a pass ``ended`` is its status, and ``found`` holds the columns that a reader waits for.
        """
        ...

    def paused(self, run: Run) -> None:
        """Hear that ``run`` waits for its next turn."""
        ...

    def finished(self, record: Record) -> None:
        """Hear that a run has ended and its record is on the disk."""
        ...


class LogLines:
    """A watcher that logs one line for the first time that each run takes, and one for every run that ended."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self._timed: set[str] = set()

    def started(self, run: Run) -> None:
        """Log at debug level that ``run`` has started."""
        self.tally.started()
        _log.debug("started %s", describe(run))

    def heard(self, run: Run, message: Mapping[str, object]) -> None:
        """Log the time of an iteration where a run tells it for the first time."""
        self.tally.heard(run, message)
        took = iteration_time(found_in(message))
        if took and run.run_id not in self._timed:
            self._timed.add(run.run_id)
            _log.info("%s: %s per iteration in the first round%s", describe(run), took, self._left())

    def paused(self, run: Run) -> None:
        """Pass over it."""

    def finished(self, record: Record) -> None:
        """Log how the run ended, and the time left."""
        self.tally.finished(record.run)
        log_end(record, f"{self.tally.done}/{self.tally.total} ", self._left())

    def _left(self) -> str:
        left = self.tally.left()
        return f"; about {duration(left)} left" if left else ""


@contextlib.contextmanager
def watch(
    console: Console,
    runs: Sequence[Run],
    before: Mapping[str, Mapping[str, object]] | None = None,
    mode: ProgressMode = ProgressMode.AUTO,
) -> Iterator[Watcher]:
    """Yield a watcher of a sweep.

    Parameters
    ----------
    console
        Shows the progress.
    runs
        Every run that the sweep is to end with; one that is measured twice stands here twice.
    before
        Rows, by run id, of those among them that were there before and are not measured again.
    mode
        Table or lines; ``auto`` takes the table where ``console`` is a terminal that can redraw, and ``NO_COLOR`` is
        not set.
    """
    found = before or {}
    tally = Tally(runs, len(found), [run for run in runs if run.run_id not in found])
    if not _as_table(console, mode):
        yield LogLines(tally)
        return
    board = Board(runs, tally)
    for run in runs:
        if run.run_id in found:
            board.note(run, found[run.run_id])
    with Live(board, console=console, transient=True, refresh_per_second=REFRESHES):
        yield board


def _as_table(console: Console, mode: ProgressMode) -> bool:
    if mode is ProgressMode.AUTO:
        return console.is_terminal and not console.is_dumb_terminal and not os.environ.get("NO_COLOR")
    return mode is ProgressMode.TABLE
