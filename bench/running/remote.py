"""A run on another host: a small process there starts a measuring server and hands it one run at a time.

The cluster's own worker process must stay small and must not import torch; it calls ``measure_row``, which keeps one
server, ``python -m odegrad.running.remote``, alive beside it. The server measures as this machine's executor does,
every pass in a process of its own. It ends, and every run of its with it, when its standard input is closed: when the
worker is killed.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from odegrad.errors import InfrastructureError, OdegradError
from odegrad.processes.asking import QUESTION_KEY, Asker
from odegrad.processes.deaths import memory_share
from odegrad.processes.process import ALLOCATOR, prepare
from odegrad.records.lines import fault_of_record
from odegrad.records.record import Run
from odegrad.running.worker import Worker

_turn = threading.Lock()
"""One run at a time, however many threads the cluster's worker has."""
_servers: list["_Server"] = []
"""The server of this process: one or none."""

_FORM: Mapping[str, type] = {"run": dict, "worker": dict, "preload": list, "neighbours": int}
"""What a job holds."""


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
        If the server ended before it had answered, refused the job, or answered with no row of that run.
    """
    with _turn:
        server = _server()
        server.asker.send(job)
        try:
            answer = server.asker.answer()
        except OdegradError as error:
            _end(server)
            raise InfrastructureError(str(error)) from error
        if "refused" in answer:
            raise InfrastructureError(f"the measuring server refused the job: {answer['refused']}")
        row = answer.get("row")
        fault = fault_of_record(row)
        if not isinstance(row, dict) or fault is not None:
            _end(server)
            raise InfrastructureError(f"what the measuring server answered {fault}")
        return row


class _Server:
    """A running server and what asks it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "odegrad.running.remote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
            env={**os.environ, **ALLOCATOR},  # Dask sets an allocator's threshold of its own for its workers
        )
        self.asker = Asker(self.process, "the measuring server")


def _server() -> _Server:
    """Return the running server of this process, started if there is none."""
    if _servers and _servers[0].process.poll() is not None:
        _end(_servers[0])
    if not _servers:
        _servers.append(_Server())
    return _servers[0]


def _end(server: _Server) -> None:
    """End a server whose answers cannot be used; the next job starts another one."""
    _servers.clear()
    server.process.kill()
    server.process.wait()
    for pipe in (server.process.stdin, server.process.stdout):
        if pipe is not None:
            pipe.close()


def main() -> None:
    """Answer every job on standard input with a row, or why there is none; what is printed goes to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    jobs: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()
    circumstances: dict[str, object] = {}
    while True:
        replies.write(json.dumps(answer(jobs.get(), circumstances)) + "\n")
        replies.flush()


def answer(line: str, circumstances: dict[str, object]) -> dict[str, object]:
    """Return the answer to a job's line, with the job's key: its ``row``, or why it is ``refused``."""
    try:
        job = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {"refused": f"the job is not JSON ({type(error).__name__}: {error})", QUESTION_KEY: None}
    if not isinstance(job, dict):
        return {"refused": f"expected a job as an object, got {type(job).__name__}", QUESTION_KEY: None}
    for name, kind in _FORM.items():
        if not isinstance(job.get(name), kind):
            told = f"{name}: expected {kind.__name__}, got {type(job.get(name)).__name__}"
            return {"refused": told, QUESTION_KEY: job.get(QUESTION_KEY)}
    try:
        return {"row": _row(job, circumstances), QUESTION_KEY: job.get(QUESTION_KEY)}
    except (OdegradError, TypeError, ValueError, KeyError) as error:  # of another odegrad's form
        return {"refused": f"{type(error).__name__}: {error}", QUESTION_KEY: job.get(QUESTION_KEY)}


def _row(job: Mapping[str, Any], circumstances: dict[str, object]) -> dict[str, object]:
    """Return what a job measures; ``circumstances`` are found once."""
    prepare(job["preload"])
    worker = Worker(**{**job["worker"], "passes": tuple(job["worker"]["passes"])})
    if worker.memory_bytes is None:
        worker = replace(worker, memory_bytes=memory_share(job["neighbours"]))
    if not circumstances:
        circumstances.update(worker.machine())
    return worker.measure(Run.from_dict(job["run"]), circumstances, lambda _message: None).to_row()


def _read(jobs: "SimpleQueue[str]") -> None:
    """Pass on every line; end this process, and with it every run, when there are no more."""
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
