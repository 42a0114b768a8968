"""A cluster by Dask distributed: one run a worker, retried where a host is lost; records are written here.

Dask schedules, moves and retries; a run is measured by ``odegrad.running.remote`` beside the worker. Losing a worker
costs the run that it had; losing the scheduler costs the runs under way, and the same command again measures them.
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import dask
from dask.utils import parse_bytes
from dask_jobqueue.slurm import SLURMCluster
from distributed import Client, Future, LocalCluster
from distributed.security import Security

from odegrad.errors import InfrastructureError
from odegrad.records.lines import fault_of_record
from odegrad.records.record import Record, Run, Status
from odegrad.running.progress import Watcher
from odegrad.running.remote import measure_row
from odegrad.running.worker import Worker

LOST_WORKERS = 3
"""How often a run may lose its worker, or fail for want of one, before its row says so."""

RUNS_AHEAD = 4
"""Runs handed to the scheduler for each worker."""

CONNECT_SECONDS = 30.0
"""How long to look for the scheduler, and to wait for one that has gone silent."""

LOST_SECONDS = 0.1
"""Between two looks at a run whose result was lost."""

_LOOK_SECONDS = 1.0
"""How often to look whether the scheduler is still there."""

ALONE_SECONDS = 60.0
"""How often to say that there is no worker."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DaskExecutor:
    """Measures runs on the workers of a Dask cluster.

    Parameters
    ----------
    client
        Connected to the scheduler.
    worker
        The settings that runs are measured with there.
    preload
        Modules that measuring processes import once.
    """

    client: Client
    worker: Worker
    preload: tuple[str, ...] = ()

    def execute(self, runs: Sequence[Run], watcher: Watcher) -> Iterator[Record]:
        """Yield the record of every run as it ends.

        Raises
        ------
        InfrastructureError
            If the scheduler has gone.
        """
        ended: SimpleQueue[Future[object]] = SimpleQueue()
        waiting, pending = list(reversed(runs)), dict[Future[object], Run]()
        try:
            while waiting or pending:
                while waiting and len(pending) < RUNS_AHEAD * max(1, len(self._hosts())):
                    run = waiting.pop()
                    watcher.started(run)
                    future = self._submit(run)
                    pending[future] = run
                    future.add_done_callback(ended.put)
                future = self._next(ended)
                yield _record(pending.pop(future), future)
        finally:
            with contextlib.suppress(Exception):  # the scheduler may be what is lost
                self.client.cancel(list(pending), force=True)

    def _submit(self, run: Run) -> Future[object]:
        settings = {k: v for k, v in self.worker.__dict__.items() if k != "stop"}
        hosts = Counter(self._hosts())
        job = {
            "run": run.to_dict(),
            "worker": settings,
            "preload": list(self.preload),
            "neighbours": max(hosts.values(), default=1),
        }
        resources = {"GPU": 1} if run.device == "cuda" else None
        return self.client.submit(measure_row, job, pure=False, retries=LOST_WORKERS, resources=resources)

    def _hosts(self) -> list[str]:
        """Return the host of every worker."""
        workers = self.client.scheduler_info(n_workers=-1).get("workers")
        if workers is None:
            raise self._gone()
        return [worker["host"] for worker in workers.values()]

    def _gone(self) -> InfrastructureError:
        return InfrastructureError(
            "the Dask scheduler has gone; every finished run is in the results folder, the same command again measures "
            "the others"
        )

    def _next(self, ended: "SimpleQueue[Future[Any]]") -> Future[object]:
        """Return the next run that has ended; look after the scheduler and the workers meanwhile."""
        silent_since, told = None, time.monotonic()
        while True:
            try:
                future = ended.get(timeout=_LOOK_SECONDS)
            except Empty:
                future = None
            now = time.monotonic()
            there = self.client.status == "running"
            if future is not None and future.status == "lost":  # with its worker, before it was taken: measured again
                ended.put(future)
                time.sleep(LOST_SECONDS)
                future = None
            if future is not None and future.status != "cancelled":
                return future
            silent_since = None if there else silent_since or now
            if future is not None or (silent_since is not None and now - silent_since > CONNECT_SECONDS):
                raise self._gone()
            if there and now - told > ALONE_SECONDS:
                told = now
                if not self._hosts():
                    _log.warning("the Dask scheduler has no worker at present; waiting for one")


def _record(run: Run, future: Future[Any]) -> Record:
    """Return what came of ``run``; where Dask gave up, the machine's failure."""
    if future.status == "finished":
        row = future.result()
        fault = fault_of_record(row)
        if fault is None and row["run_id"] != run.run_id:
            fault = f"is of run {row['run_id']}; is another odegrad installed there?"
        if fault is None:
            return Record.from_row(row | run.to_dict())
        return Record(run, Status.INFRASTRUCTURE, f"Dask: what a worker answered {fault}")
    error = future.exception()
    return Record(run, Status.INFRASTRUCTURE, f"Dask: {type(error).__name__}: {error}")


@contextlib.contextmanager
def at_address(address: str, worker: Worker, preload: Sequence[str] = ()) -> Iterator[DaskExecutor]:
    """Connect to the scheduler at ``address`` (``tcp://host:port``).

    Raises
    ------
    InfrastructureError
        If there is none.
    """
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InfrastructureError(
            f"--address {address}: expected a Dask scheduler there, got {type(error).__name__}: {error}; start one "
            "with `dask scheduler`, and workers with `dask worker ADDRESS --nthreads 1`"
        ) from error
    if not address.startswith("tls://") and "127.0.0.1" not in address and "localhost" not in address:
        _log.warning(
            "--address %s: a scheduler without TLS runs code for whoever reaches it; start it with certificates and "
            "give tls://HOST:PORT", address,
        )  # fmt: skip
    with client:
        yield DaskExecutor(client, worker, tuple(preload))


@contextlib.contextmanager
def on_this_machine(workers: int, device: str, worker: Worker, preload: Sequence[str] = ()) -> Iterator[DaskExecutor]:
    """Start a scheduler and ``workers`` workers on this machine, and end them afterwards."""
    resources = {"GPU": 1} if device == "cuda" else {}
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": {}}),  # it would change this process's environment
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1",
            resources=resources, silence_logs=logging.ERROR, protocol="tls://", security=Security.temporary(),
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):  # fmt: skip
        yield DaskExecutor(client, worker, tuple(preload))


def slurm_cluster(device: str, worker: Worker, options: Mapping[str, Any]) -> SLURMCluster:
    """Return a cluster whose workers are Slurm jobs of one run at a time each.

    Parameters
    ----------
    device
        With ``cuda`` every job asks for one GPU.
    worker
        Its threads are the cores of a job.
    options
        Of ``dask_jobqueue.SLURMCluster``: ``queue``, ``account``, ``walltime``, ``memory``, ...; what is left out is
        that of the user's Dask configuration (``jobqueue.slurm``). ``interface`` is what the scheduler listens on, by
        default every one; ``dashboard``, ``:8787`` for example, where its page is, by default nowhere.

    Returns
    -------
    SLURMCluster
        Its scheduler talks by TLS with those alone who hold the certificates that are made for it here.
    """
    options = dict(options)
    dashboard = options.pop("dashboard", None)
    scheduler = {"dashboard": dashboard is not None, "dashboard_address": dashboard or "127.0.0.1:0"}
    routes: dict[str, object] = {} if dashboard else {"distributed.scheduler.http.routes": []}
    extra = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    extra += ["--resources", "GPU=1"] if device == "cuda" else []
    directives = [*options.get("job_extra_directives", []), *(["--gpus=1"] if device == "cuda" else [])]
    chosen = {"cores": worker.threads, "processes": 1, **options, "job_extra_directives": directives}
    if "memory" in chosen:
        chosen["memory"] = str(parse_bytes(chosen["memory"])) + "B"
    scheduler |= dict(chosen.pop("scheduler_options", {}))
    if dask.config.get("jobqueue.slurm.shared-temp-directory", None) is None:  # where the nodes find the certificates
        chosen.setdefault("shared_temp_directory", str(Path.cwd()))
    secure = {"protocol": "tls://", "security": Security.temporary(), "scheduler_options": scheduler}
    with dask.config.set(routes):  # without a dashboard its server answers nobody, on this host's own address
        return SLURMCluster(worker_extra_args=extra, **secure, **chosen)


@contextlib.contextmanager
def on_slurm(
    workers: int, device: str, options: Mapping[str, object], worker: Worker, preload: Sequence[str] = ()
) -> Iterator[DaskExecutor]:
    """Ask Slurm for ``workers`` jobs, measure on them as they start, and end them afterwards."""
    with slurm_cluster(device, worker, options) as cluster, Client(cluster, set_as_default=False) as client:
        cluster.scale(jobs=workers)
        yield DaskExecutor(client, worker, tuple(preload))
