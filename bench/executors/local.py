"""One machine, one run at a time, every pass in a process of its own: runs do not disturb each other's clocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from odegrad.progress import Watcher
from odegrad.record import Record, Run
from odegrad.worker import Worker


@dataclass(frozen=True)
class LocalExecutor:
    """Measures runs with ``worker``, one after the other."""

    worker: Worker

    def execute(self, runs: Sequence[Run], watcher: Watcher) -> Iterator[Record]:
        """Yield the record of every run as it ends.

        Raises
        ------
        InfrastructureError
            If this machine cannot start processes at all.
        """
        if not runs:
            return
        circumstances = self.worker.machine()
        for run in runs:
            watcher.started(run)
            yield self.worker.measure(run, circumstances, partial(watcher.heard, run))
