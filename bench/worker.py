"""One run to one record, whatever happens: every pass in a fresh process, every failure a status with its message."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from odegrad.errors import InfrastructureError
from odegrad.executors.child import Call
from odegrad.executors.process import Reply, call_in_process
from odegrad.machine import machine
from odegrad.record import COLUMNS, Record, Run, Status

Progress = Callable[[Mapping[str, Any]], None]

MEASURED = frozenset(c.name for c in COLUMNS if c.measured)


@dataclass(frozen=True)
class Worker:
    """How runs are measured.

    Parameters
    ----------
    passes
        Names of the passes, in order, of a run that asks for none by name; the first that fails ends the run.
    function
        ``module:function``, called as ``function(pass name, run, scratch folder, progress)`` in a fresh process;
        returns columns.
    threads
        Threads of one tensor operation.
    timeout
        Seconds that all passes of one run may take together, without process starts; None for no limit.
    folder
        Working folder of the processes, where relative names such as ``my_method.py:MyMethod`` are looked up.
    """

    passes: tuple[str, ...]
    function: str
    threads: int = 1
    timeout: float | None = None
    folder: str = "."

    def machine(self) -> dict[str, Any]:
        """Return the circumstances of this worker's processes, found in one of them.

        Raises
        ------
        InfrastructureError
            If no process could be started.
        """
        reply = self._call("odegrad.worker:machine_of_process", (), None, lambda _message: None)
        if reply.status is not Status.OK:
            raise InfrastructureError(
                f"no run can be started: a first process, which only describes the machine, ended with "
                f"{reply.status}: {reply.message}"
            )
        found: dict[str, Any] = reply.value
        return found

    def measure(self, run: Run, circumstances: Mapping[str, Any], progress: Progress) -> Record:
        """Return the record of ``run``; columns of the passes before a failure are kept.

        Parameters
        ----------
        run
            What to measure.
        circumstances
            From ``machine``; goes into the record.
        progress
            Hears of every pass and of what it reports.
        """
        begin, spent = time.monotonic(), 0.0
        measured: dict[str, Any] = {}
        status, message = Status.OK, ""
        with tempfile.TemporaryDirectory(prefix="odegrad-", ignore_cleanup_errors=True) as scratch:
            for name in run.passes.split(",") if run.passes else self.passes:
                progress({"pass": name})
                left = None if self.timeout is None else max(0.0, self.timeout - spent)
                reply = self._call(self.function, (name, run, scratch), left, progress)
                spent += reply.seconds
                status, message = self._judge(name, reply)
                if status is not Status.OK:
                    break
                measured |= reply.value
        measured["process_seconds"] = time.monotonic() - begin
        return Record(run, status, message, measured, circumstances)

    def _call(self, function: str, arguments: tuple[Any, ...], timeout: float | None, progress: Progress) -> Reply:
        call = Call(function, arguments, self.threads, self.folder, output="")
        return call_in_process(call, timeout=timeout, progress=progress)

    def _judge(self, name: str, reply: Reply) -> tuple[Status, str]:
        """Return the status and message of a pass: the reply's own, or an error if it holds no columns."""
        if reply.status is Status.TIMEOUT:
            return reply.status, (
                f"{name} pass: stopped because the run's passes took more than {self.timeout:g} s together; "
                "give a larger --timeout or a smaller run"
            )
        if reply.status is not Status.OK:
            return reply.status, f"{name} pass: {reply.message}"
        if not isinstance(reply.value, dict):
            return Status.ERROR, f"{name} pass: returned {type(reply.value).__name__}; expected a dict of columns"
        unknown = sorted(set(reply.value) - MEASURED)
        if unknown:
            return Status.ERROR, f"{name} pass: returned unknown column {unknown[0]!r}; columns are in odegrad.record"
        return Status.OK, ""


def machine_of_process(_progress: Progress) -> dict[str, Any]:
    """Return the machine as seen by the calling process."""
    return machine()
