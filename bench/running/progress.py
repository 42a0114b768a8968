"""What a sweep tells while it runs: a live line on standard error, or log lines where that is no terminal."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from odegrad.records.record import TUNING, Record, Run, Status

ESTIMATE_SECONDS = 7200.0
"""How far back the time left looks: runs are long and unlike each other."""

REFRESHES = 5.0
"""Redraws a second: enough to look alive, few enough not to disturb the clock of a run."""

_log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Hears of a sweep's runs."""

    def started(self, run: Run) -> None:
        """Hear that ``run`` has started."""
        ...

    def heard(self, run: Run, message: Mapping[str, object]) -> None:
        """Hear what ``run`` reports, for example ``{"pass": "train", "iteration": 12, "of": 80, "loss": 0.31}``."""
        ...

    def paused(self, run: Run) -> None:
        """Hear that ``run`` waits for its next turn."""
        ...

    def finished(self, record: Record) -> None:
        """Hear that a run has ended and its record is on the disk."""
        ...


class LogLines:
    """A watcher that logs one line for every run that ended."""

    def __init__(self, total: int, done: int = 0) -> None:
        self.total, self.done = total, done

    def started(self, run: Run) -> None:
        """Log at debug level that ``run`` has started."""
        _log.debug("started %s", describe(run))

    def heard(self, run: Run, message: Mapping[str, object]) -> None:
        """Pass over it."""

    def paused(self, run: Run) -> None:
        """Pass over it."""

    def finished(self, record: Record) -> None:
        """Log how the run ended."""
        self.done += 1
        log_end(record, f"{self.done}/{self.total} ")


class LiveLines:
    """A watcher that keeps lines up to date: runs done and time left; every current run, its pass and loss."""

    def __init__(self, total: int, done: int) -> None:
        self.progress = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("runs, elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            speed_estimate_period=ESTIMATE_SECONDS,
        )
        self.task = self.progress.add_task("runs", total=total, completed=done)
        self.current: dict[str, str] = {}

    def __rich__(self) -> Group:
        """Return the lines as they stand."""
        runs = [Text(line, no_wrap=True, overflow="ellipsis") for line in list(self.current.values())]
        return Group(self.progress, *runs)

    def started(self, run: Run) -> None:
        """Show ``run`` among the current ones."""
        self.current = self.current | {run.run_id: describe(run)}

    def heard(self, run: Run, message: Mapping[str, object]) -> None:
        """Show what ``run`` reports."""
        self.current = self.current | {run.run_id: f"{describe(run)}: {detail(message)}"}

    def paused(self, run: Run) -> None:
        """Show ``run`` no longer."""
        self.current = {name: line for name, line in self.current.items() if name != run.run_id}

    def finished(self, record: Record) -> None:
        """Count the run; log it if it failed."""
        self.progress.advance(self.task)
        self.paused(record.run)
        if record.status is not Status.OK:
            log_end(record, "")


@contextlib.contextmanager
def watch(console: Console, total: int, done: int) -> Iterator[Watcher]:
    """Yield a watcher of a sweep of ``total`` runs of which ``done`` were there before; live if ``console`` is."""
    if not console.is_terminal:
        yield LogLines(total, done)
        return
    lines = LiveLines(total, done)
    with Live(lines, console=console, transient=True, refresh_per_second=REFRESHES):
        yield lines


def describe(run: Run) -> str:
    """Return a run in a few words; a trial with the settings that it tries."""
    words = f"{run.task} {run.method or run.gradient} {run.solver} seed {run.seed}"
    tried = {**dict(run.gradient_options), **dict(run.optimizer_options)} if run.stage == TUNING else {}
    return words + "".join(f" {name}={value}" for name, value in tried.items())


def detail(message: Mapping[str, object]) -> str:
    """Return a progress message in a few words."""
    words = [str(message.get("pass", ""))]
    if "iteration" in message and "of" in message:
        words.append(f"{message['iteration']}/{message['of']}")
    loss = message.get("loss")
    if isinstance(loss, (int, float)):
        words.append(f"loss {loss:.4g}")
    return " ".join(words)


def log_end(record: Record, prefix: str) -> None:
    """Log how a run ended: information if it is fine, otherwise a warning with its message."""
    seconds = record.measured.get("process_seconds", 0.0)
    if record.status is Status.OK:
        name, value = record.measured.get("metric_name"), record.measured.get("metric_value")
        metric = f", {name} {value:.4g}" if isinstance(value, float) else ""
        _log.info("%s%s: ok%s, %.1f s", prefix, describe(record.run), metric, seconds)
    else:
        _log.warning("%s%s: %s, %s", prefix, describe(record.run), record.status, record.message)
