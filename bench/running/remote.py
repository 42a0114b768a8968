"""A run on another host: a small process there starts a measuring server and hands it one run at a time.

The cluster's own worker process must stay small and must not import torch; it calls ``measure_row``, which keeps one
server, ``python -m odegrad.running.remote``, alive beside it. The server measures as this machine's executor does,
every pass in a process of its own. It ends, and every run of its with it, when its standard input is closed: when the
worker is killed.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from queue import SimpleQueue

from odegrad.errors import InfrastructureError
from odegrad.processes.deaths import memory_share
from odegrad.processes.process import ALLOCATOR, prepare
from odegrad.records.record import Run
from odegrad.running.worker import Worker

_turn = threading.Lock()
"""One run at a time, however many threads the cluster's worker has."""
_servers: list[subprocess.Popen[str]] = []
"""The server of this process: one or none."""


def measure_row(job: Mapping[str, object]) -> dict[str, object]:
    """Return the row, as ``Record.to_row`` makes it, of the run that ``job`` describes; called by a cluster's worker.

    Parameters
    ----------
    job
        ``run``: the run's fields; ``worker``: the settings of a ``Worker``; ``preload``: modules to import once;
        ``neighbours``: how many workers of the cluster share the host, and its memory.

    Raises
    ------
    InfrastructureError
        If the server ended before it had answered.
    """
    with _turn:
        server = _server()
        if server.stdin is None or server.stdout is None:
            raise InfrastructureError("the measuring server has no standard input or output")
        with contextlib.suppress(BrokenPipeError):  # an empty answer says so
            server.stdin.write(json.dumps(job) + "\n")
            server.stdin.flush()
        line = server.stdout.readline()
        if not line.endswith("\n"):
            _servers.clear()
            raise InfrastructureError(f"the measuring server ended with code {server.wait()} before it had answered")
        row: dict[str, object] = json.loads(line)
        return row


def _server() -> subprocess.Popen[str]:
    """Return the running server of this process, started if there is none."""
    if _servers and _servers[0].poll() is not None:
        _servers.clear()
    if not _servers:
        command = [sys.executable, "-m", "odegrad.running.remote"]
        environment = {**os.environ, **ALLOCATOR}  # Dask sets an allocator's threshold of its own for its workers
        _servers.append(
            subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env=environment,
            )
        )
    return _servers[0]


def main() -> None:
    """Answer every job on standard input with a row on standard output."""
    jobs: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()
    circumstances: dict[str, object] = {}
    while True:
        job = json.loads(jobs.get())
        prepare(job["preload"])
        worker = Worker(**{**job["worker"], "passes": tuple(job["worker"]["passes"])})
        if worker.memory_bytes is None:
            worker = replace(worker, memory_bytes=memory_share(job["neighbours"]))
        circumstances = circumstances or worker.machine()
        record = worker.measure(Run.from_dict(job["run"]), circumstances, lambda _message: None)
        print(json.dumps(record.to_row()), flush=True)


def _read(jobs: "SimpleQueue[str]") -> None:
    """Pass on every line; end this process, and with it every run, when there are no more."""
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
