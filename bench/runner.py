"""A sweep: plan what is missing, hand it to an executor, write every record as it comes."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console

from odegrad.executors.local import LocalExecutor
from odegrad.executors.process import prepare
from odegrad.progress import Watcher, watch
from odegrad.record import PASSES, Record, Run, Status
from odegrad.registry import gradients, optimizers, tasks
from odegrad.store import Store, SuiteIdentity
from odegrad.suite import Suite
from odegrad.tuning import Choice, choose
from odegrad.worker import Worker

FAILED = frozenset({Status.DIVERGED, Status.OUT_OF_MEMORY, Status.TIMEOUT, Status.ERROR})
"""Ways a run ends that are its own failure. A refusal (``unsupported``) is a stated limit, not a failure."""


_log = logging.getLogger(__name__)

PASSES_MODULE = "odegrad.passes"


class Executor(Protocol):
    """Where runs are executed."""

    def execute(self, runs: Sequence[Run], watcher: Watcher) -> Iterator[Record]:
        """Yield one record for every run, in any order, as they end."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a sweep stands: its runs by status, what was measured now, and whether it was interrupted."""

    statuses: Mapping[Status, int]
    total: int
    measured: int
    infrastructure: int
    """How many of those measured now failed because of the machine."""
    interrupted: bool = False

    def __add__(self, other: "Outcome") -> "Outcome":
        """Return how both stand together."""
        return Outcome(
            statuses=Counter(self.statuses) + Counter(other.statuses),
            total=self.total + other.total,
            measured=self.measured + other.measured,
            infrastructure=self.infrastructure + other.infrastructure,
            interrupted=self.interrupted or other.interrupted,
        )

    @property
    def failed(self) -> int:
        """Return how many runs of the suite have failed."""
        return sum(count for status, count in self.statuses.items() if status in FAILED)

    @property
    def finished(self) -> int:
        """Return how many runs of the suite need not be measured again."""
        return sum(count for status, count in self.statuses.items() if status is not Status.INFRASTRUCTURE)


def missing(runs: Sequence[Run], statuses: Mapping[str, Status], *, rerun_failed: bool = False) -> list[Run]:
    """Return the runs still to be measured, in order.

    A run is finished once it has ended in any way but ``infrastructure``; ``rerun_failed`` leaves out only those that
    are ``ok`` or ``unsupported``.
    """
    again = {Status.INFRASTRUCTURE, *(FAILED if rerun_failed else ())}
    return [run for run in runs if statuses.get(run.run_id, Status.INFRASTRUCTURE) in again]


def sweep(runs: Sequence[Run], todo: Sequence[Run], store: Store, executor: Executor, watcher: Watcher) -> Outcome:
    """Measure ``todo`` and append every record at once; Ctrl-C ends it with everything finished on the disk.

    Parameters
    ----------
    runs
        Every run of the suite, for the outcome.
    todo
        Those to measure, from ``missing``.
    store
        Takes the records.
    executor
        Measures.
    watcher
        Hears of every run.

    Returns
    -------
    Outcome
        How the whole suite stands.

    Raises
    ------
    ResultsError
        If a record cannot be written.
    InfrastructureError
        If no run can be started.
    """
    statuses = store.statuses()
    measured: list[Status] = []
    interrupted = False
    try:
        for record in executor.execute(todo, watcher):
            store.append(record)
            statuses[record.run.run_id] = record.status
            measured.append(record.status)
            watcher.finished(record)
    except KeyboardInterrupt:
        interrupted = True
    return Outcome(
        statuses=Counter(statuses[run.run_id] for run in runs if run.run_id in statuses),
        total=len(runs),
        measured=len(measured),
        infrastructure=measured.count(Status.INFRASTRUCTURE),
        interrupted=interrupted,
    )


def run_suite(
    suite: Suite,
    folder: Path,
    console: Console,
    *,
    device: str = "cpu",
    rerun_failed: bool = False,
    threads: int = 1,
    timeout: float | None = None,
) -> Outcome:
    """Measure on this machine what the results folder ``folder`` lacks of ``suite``.

    Parameters
    ----------
    suite
        What to run.
    folder
        Results folder; made if it does not exist.
    console
        Shows the progress.
    device
        ``cpu`` or ``cuda``.
    rerun_failed
        Whether to measure failed runs again.
    threads
        Threads of one tensor operation.
    timeout
        Seconds that one run may take.

    Raises
    ------
    ResultsError
        If the folder cannot be used.
    InfrastructureError
        If no run can be started.
    """
    builtin = [target for registry in (gradients, optimizers, tasks) for target in registry.builtin.values()]
    prepare([PASSES_MODULE, *sorted({target.partition(":")[0] for target in builtin})])
    executor = LocalExecutor(Worker(PASSES, f"{PASSES_MODULE}:run_pass", threads, timeout, str(suite.folder)))
    with Store(folder, SuiteIdentity(suite.name, suite.digest)) as store:

        def stage(runs: Sequence[Run], what: str) -> Outcome:
            todo = missing(runs, store.statuses(), rerun_failed=rerun_failed)
            done = len(runs) - len(todo)
            _log.info("%s: %d %s, %d finished before; results in %s", suite.name, len(runs), what, done, folder)
            with watch(console, len(runs), done) as watcher:
                return sweep(runs, todo, store, executor, watcher)

        if not suite.tuned:
            return stage(suite.runs(device), f"runs on {device}")
        trials = suite.trials(device)
        tried = stage(trials, f"trials on {device}, which choose settings on the validation split")
        if tried.interrupted:
            return tried
        choices = choose(trials, store.rows({trial.run_id for trial in trials}))
        for choice in choices.values():
            _log.info("%s", chosen_in_words(choice))
        runs = suite.runs(device, {cell: choice.point for cell, choice in choices.items()})
        return tried + stage(runs, f"runs on {device} with the settings chosen")


def chosen_in_words(choice: Choice) -> str:
    """Return which settings a method's trials chose, in one line."""
    options = {**dict(choice.trial.gradient_options), **dict(choice.trial.optimizer_options)}
    named = ", ".join(f"{key} {value}" for key, value in options.items()) or "the defaults"
    value = "none ended well" if choice.value is None else f"{choice.value:.4g} on validation"
    return f"{choice.trial.task} {choice.trial.method}: {named}; best of {choice.trials} trials, {value}"
