"""One machine: every pass in a process of its own, several runs at a time if asked, but times are taken alone."""

import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue

from odegrad.records.record import Record, Run
from odegrad.records.rounds import turns
from odegrad.running.progress import Watcher
from odegrad.running.worker import TIME, RunState, Worker

RUNS_A_WORKER = 4
"""Runs for each of several workers between two times at which all of them wait for the clock."""


def block_of(run: Run) -> tuple[object, ...]:
    """Return what a run shares with those it is compared with: everything but the method."""
    return (
        run.stage, run.task, run.size, run.solver, run.solver_options, run.rtol, run.atol, run.seed, run.device,
        run.dtype,
    )  # fmt: skip


@dataclass(frozen=True)
class LocalExecutor:
    """Measures runs on this machine.

    Parameters
    ----------
    workers
        One a run at a time; each has cores, and a GPU, of its own.
    exclusive
        Whether the time passes have the machine to themselves: no other run is measured meanwhile, and the methods of
        a comparison take turns. If not, each run's time pass is measured whenever it comes.
    """

    workers: tuple[Worker, ...]
    exclusive: bool = True

    def execute(self, runs: Sequence[Run], watcher: Watcher) -> Iterator[Record]:
        """Yield the record of every run as it ends.

        Raises
        ------
        InfrastructureError
            If this machine cannot start processes at all.
        """
        if not runs:
            return
        stop = threading.Event()
        workers = [replace(worker, stop=stop) for worker in self.workers]
        crew = _Crew(workers, workers[0].machine(), watcher)
        with ThreadPoolExecutor(len(workers), "odegrad") as pool:
            pending: set[Future[Record]] = set()
            try:
                for group in self._groups(runs):
                    begun: dict[str, RunState] = {}
                    if self.exclusive and any(TIME in workers[0].passes_of(run) for run in group):
                        yield from _ended(pending, 0)
                        begun = pool.submit(crew.time, group).result()
                    for run in group:
                        pending.add(pool.submit(crew.measure, run, begun.get(run.run_id)))
                        yield from _ended(pending, 2 * len(workers))
                yield from _ended(pending, 0)
            finally:
                stop.set()
                for future in pending:
                    future.cancel()

    def _groups(self, runs: Sequence[Run]) -> Iterator[list[Run]]:
        """Yield runs that are timed together: whole blocks, enough of them that several workers are kept busy.

        The first block goes by itself: whoever watches sees a first result while the next ones are still untimed.
        """
        enough = 1 if len(self.workers) == 1 else RUNS_A_WORKER * len(self.workers)
        group: list[Run] = []
        least = 1
        for _, block in itertools.groupby(runs, block_of):
            group += block
            if len(group) >= least:
                yield group
                group, least = [], enough
        if group:
            yield group


class _Crew:
    """The workers, each with one run at a time."""

    def __init__(self, workers: Sequence[Worker], circumstances: dict[str, object], watcher: Watcher) -> None:
        self.circumstances, self.watcher = circumstances, watcher
        self.free: SimpleQueue[Worker] = SimpleQueue()
        for worker in workers:
            self.free.put(worker)

    def time(self, group: Sequence[Run]) -> dict[str, RunState]:
        """Return the rounds of the time pass of every run in ``group``; the runs of a block take turns."""
        worker = self.free.get()
        found: dict[str, RunState] = {}
        try:
            for _, block in itertools.groupby(group, block_of):
                members = [run for run in block if TIME in worker.passes_of(run)]
                for run in turns(members, worker.rounds):
                    self.watcher.started(run)
                    before = found.get(run.run_id, RunState())
                    found[run.run_id] = worker.time_round(run, before, partial(self.watcher.heard, run))
                    self.watcher.paused(run)
        finally:
            self.free.put(worker)
        return found

    def measure(self, run: Run, begun: RunState | None) -> Record:
        """Return the record of ``run``, measured by the first worker that is free."""
        worker = self.free.get()
        try:
            self.watcher.started(run)
            return worker.measure(run, self.circumstances, partial(self.watcher.heard, run), begun)
        finally:
            self.free.put(worker)


def _ended(pending: set[Future[Record]], most: int) -> Iterator[Record]:
    """Yield records as runs end, until at most ``most`` are pending."""
    while len(pending) > most:
        done, _ = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            pending.discard(future)
            yield future.result()
