"""A sweep: plan what is missing, hand it to an executor, write every record as it comes."""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from rich.console import Console

from odegrad.errors import InfrastructureError
from odegrad.processes.deaths import memory_share
from odegrad.processes.preload import PASSES_MODULE, preload
from odegrad.processes.process import prepare
from odegrad.records.record import FAILED, PASSES, Record, Run, Status
from odegrad.records.shard import WHOLE, Shard
from odegrad.records.store import Store, SuiteIdentity
from odegrad.records.temporary import temporary_folder
from odegrad.running.local import LocalExecutor, block_of
from odegrad.running.mode import ProgressMode
from odegrad.running.progress import Watcher, watch
from odegrad.running.slots import available_cores, slots, visible_gpus
from odegrad.running.worker import Worker
from odegrad.suites.suite import Suite
from odegrad.suites.tuning import Choice, choose

_log = logging.getLogger(__name__)


class Executor(Protocol):
    """Where runs are executed."""

    def execute(self, runs: Sequence[Run], watcher: Watcher) -> Iterator[Record]:
        """Yield one record for every run, in any order, as they end."""
        ...


Connect = Callable[[Worker, Sequence[str]], AbstractContextManager[Executor]]
"""Opens an executor elsewhere, for runs that this worker measures, in processes that import these modules once."""


@dataclass(frozen=True)
class SweepOutcome:
    """How a sweep stands: its runs by status, what was measured now, and whether it was interrupted."""

    statuses: Mapping[Status, int]
    total: int
    measured: int
    infrastructure: int
    """How many of those measured now failed because of the machine."""
    interrupted: bool = False

    def __add__(self, other: "SweepOutcome") -> "SweepOutcome":
        """Return how both stand together."""
        return SweepOutcome(
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


def sweep(runs: Sequence[Run], todo: Sequence[Run], store: Store, executor: Executor, watcher: Watcher) -> SweepOutcome:
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
    SweepOutcome
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
    return SweepOutcome(
        statuses=Counter(statuses[run.run_id] for run in runs if run.run_id in statuses),
        total=len(runs),
        measured=len(measured),
        infrastructure=measured.count(Status.INFRASTRUCTURE),
        interrupted=interrupted,
    )


@dataclass(frozen=True)
class SweepSettings:
    """How a suite is run.

    Parameters
    ----------
    device
        ``cpu`` or ``cuda``, unless the suite names its devices.
    rerun_failed
        Whether to measure failed runs again.
    threads
        Threads of one tensor operation.
    timeout
        Seconds that one run may take.
    memory_bytes
        What the processes of one run may allocate on the CPU; None: nine tenths of the memory there is, shared out
        between the workers.
    retries
        How many more times a pass is tried that failed because of the machine.
    workers
        Runs at a time.
    exclusive
        Whether the time passes have the machine to themselves.
    shard
        Which part of the suite to run.
    progress
        How the sweep tells how far it is.
    """

    device: str = "cpu"
    rerun_failed: bool = False
    threads: int = 1
    timeout: float | None = None
    memory_bytes: int | None = None
    retries: int = 1
    workers: int = 1
    exclusive: bool = True
    shard: Shard = WHOLE
    progress: ProgressMode = ProgressMode.AUTO


def run_suite(
    suite: Suite, folder: Path, console: Console, settings: SweepSettings, connect: Connect | None = None
) -> SweepOutcome:
    """Measure what the results folder ``folder`` lacks of ``suite``.

    Parameters
    ----------
    suite
        What to run.
    folder
        Results folder; made if it does not exist.
    console
        Shows the progress.
    settings
        How to run it.
    connect
        Makes an executor on a cluster, from the worker that measures there; None: this machine.

    Raises
    ------
    ResultsError
        If the folder cannot be used.
    InfrastructureError
        If no run can be started, or trials of another shard are missing.
    """
    with contextlib.ExitStack() as stack:
        executor = (
            local_executor(suite, settings, stack.enter_context(shared_folder()))
            if connect is None
            else stack.enter_context(connect(worker_of(suite, settings), preload()))
        )
        store = stack.enter_context(Store(folder, SuiteIdentity(suite.name, suite.digest), settings.shard))
        return _Sweeper(suite, store, executor, settings, console).run()


def worker_of(suite: Suite, settings: SweepSettings) -> Worker:
    """Return the worker that measures one of the suite's runs at a time."""
    return Worker(
        PASSES, f"{PASSES_MODULE}:run_pass", settings.threads, settings.timeout, str(suite.folder),
        settings.memory_bytes, settings.retries,
    )  # fmt: skip


def fitting_workers(suite: Suite, threads: int) -> int:
    """Return how many runs at a time the suite asks for, fewer where this machine has fewer cores."""
    return max(1, min(suite.content.workers, len(available_cores() or (0,)) // threads))


def shared_folder() -> AbstractContextManager[str]:
    """Give a folder for what the runs of one sweep share, the references of their gradients; it goes at the end."""
    return temporary_folder()


def local_executor(suite: Suite, settings: SweepSettings, shared: str) -> LocalExecutor:
    """Return the executor on this machine: ``settings.workers`` workers with cores, and GPUs, of their own.

    ``shared`` is the folder for what its runs share.

    Raises
    ------
    UsageError
        If there are fewer cores or GPUs than workers need.
    """
    prepare(preload())
    gpus = visible_gpus() if settings.device == "cuda" else ()
    places = slots(available_cores(), gpus, settings.workers, settings.threads)
    limit = settings.memory_bytes or memory_share(settings.workers)
    worker = replace(worker_of(suite, settings), memory_bytes=limit, shared=shared)
    return LocalExecutor(
        tuple(replace(worker, cores=place.cores, gpu=place.gpu) for place in places), settings.exclusive
    )


@dataclass(frozen=True)
class _Sweeper:
    """Runs a suite: its trials, where it tunes, then the runs that count."""

    suite: Suite
    store: Store
    executor: Executor
    settings: SweepSettings
    console: Console

    def run(self) -> SweepOutcome:
        suite, device = self.suite, self.settings.device
        if not suite.tuned:
            return self.stage(suite.runs(device), f"runs on {device}")
        trials = suite.trials(device)
        tried = self.stage(trials, f"trials on {device}, which choose settings on the validation split")
        if tried.interrupted:
            return tried
        rows = self.store.rows({trial.run_id for trial in trials})
        absent = sum(trial.run_id not in rows for trial in trials)
        if absent:
            raise InfrastructureError(
                f"suite {suite.name}: {absent} trials of other shards are not measured yet, and the settings depend on "
                "them; run the same command again when those shards have ended"
            )
        choices = choose(trials, rows, suite.tuned_by)
        for choice in choices.values():
            _log.info("%s", chosen_in_words(choice))
        runs = suite.runs(device, {cell: choice.point for cell, choice in choices.items()})
        return tried + self.stage(runs, f"runs on {device} with the settings chosen")

    def stage(self, runs: Sequence[Run], what: str) -> SweepOutcome:
        shard = self.settings.shard
        mine = shard.of(runs, block_of)
        todo = missing(mine, self.store.statuses(), rerun_failed=self.settings.rerun_failed)
        done = len(mine) - len(todo)
        part = f" of {len(runs)}, shard {shard}," if shard.count > 1 else ""
        _log.info(
            "%s: %d%s %s, %d finished before; results in %s",
            self.suite.name, len(mine), part, what, done, self.store.folder,
        )  # fmt: skip
        before = self.store.rows({run.run_id for run in mine} - {run.run_id for run in todo})
        with watch(self.console, mine, before, self.settings.progress) as watcher:
            return sweep(mine, todo, self.store, self.executor, watcher)


def chosen_in_words(choice: Choice) -> str:
    """Return which settings a method's trials chose, in one line."""
    options = {**dict(choice.trial.gradient_options), **dict(choice.trial.optimizer_options)}
    named = ", ".join(f"{key} {value}" for key, value in options.items()) or "the defaults"
    value = "none ended well" if choice.value is None else f"validation {choice.by} {choice.value:.4g}"
    return f"{choice.trial.task} {choice.trial.method}: {named}; best of {choice.trials} trials, {value}"
