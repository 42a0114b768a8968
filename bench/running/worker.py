"""One run to one record, whatever happens: every pass in a fresh process, every failure a status with its message."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from odegrad.errors import InfrastructureError
from odegrad.processes.link import Call, Listener
from odegrad.processes.listening import Reply
from odegrad.processes.process import call_in_process
from odegrad.records.checking import fault_of_measured, fault_of_traces
from odegrad.records.columns import COLUMNS, PARTS
from odegrad.records.record import Record, Run, Status
from odegrad.records.rounds import ROUNDS, merge
from odegrad.records.temporary import temporary_folder

MEASURED = frozenset(c.name for c in COLUMNS if c.measured)

TIME = "time"
"""The pass that is measured in rounds."""

HEADLINES = (*PARTS, "metric_name", "metric_value", "metric_higher_is_better")
"""Columns that are told at the end of a pass, before the record is there."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunState:
    """What has been measured of a run so far."""

    status: Status = Status.OK
    message: str = ""
    rounds: tuple[Mapping[str, object], ...] = ()
    """Of the time pass."""
    spent: float = 0.0
    """Seconds in its passes, without the starts of processes."""
    seconds: float = 0.0
    """Wall-clock of all that."""


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
    memory_bytes
        How much the processes may allocate on the CPU above what they start with; None for no limit.
    retries
        How many more times a pass is tried that failed because of the machine.
    cores
        The logical cores of this worker; empty: all. The time pass takes the last ``threads`` of them, so that its
        processes do not wander.
    gpu
        Which of the visible GPUs is this worker's; None: whatever is visible.
    rounds
        How many processes time a run.
    shared
        Folder of the sweep in which its runs' scratch folders lie side by side, with what they share; None: a folder
        for each run.
    stop
        Once it is set, calls are given up with ``Stopped``.
    """

    passes: tuple[str, ...]
    function: str
    threads: int = 1
    timeout: float | None = None
    folder: str = "."
    memory_bytes: int | None = None
    retries: int = 1
    cores: tuple[int, ...] = ()
    gpu: str | None = None
    rounds: int = ROUNDS
    shared: str | None = None
    stop: threading.Event | None = field(default=None, compare=False, repr=False)

    def machine(self) -> dict[str, object]:
        """Return the circumstances of this worker's processes, found in one of them.

        Raises
        ------
        InfrastructureError
            If no process could be started.
        """
        reply = self._call("odegrad.machine.description:machine_of_process", (), None, lambda _message: None)
        if reply.status is not Status.OK:
            raise InfrastructureError(
                f"no run can be started: a first process, which only describes the machine, ended with "
                f"{reply.status}: {reply.message}"
            )
        found: dict[str, object] = reply.value
        return found

    def passes_of(self, run: Run) -> tuple[str, ...]:
        """Return the passes of ``run`` in their order."""
        return tuple(run.passes.split(",")) if run.passes else self.passes

    def time_round(self, run: Run, begun: RunState, progress: Listener) -> RunState:
        """Return ``begun`` with one more round of the time pass; a run that has failed is left as it is."""
        if begun.status is not Status.OK:
            return begun
        start = time.monotonic()
        with self._scratch() as scratch:
            reply, status, message = self._pass(TIME, run, scratch, begun.spent, progress)
        return RunState(
            status,
            message,
            (*begun.rounds, reply.value) if status is Status.OK else begun.rounds,
            begun.spent + reply.seconds,
            begun.seconds + time.monotonic() - start,
        )

    def measure(
        self, run: Run, circumstances: Mapping[str, object], progress: Listener, begun: RunState | None = None
    ) -> Record:
        """Return the record of ``run``; columns of the passes before a failure are kept.

        Parameters
        ----------
        run
            What to measure.
        circumstances
            From ``machine``; goes into the record.
        progress
            Hears of every pass and of what it reports.
        begun
            What has been measured of it already: its rounds of the time pass.

        Raises
        ------
        Stopped
            If this worker's ``stop`` was set.
        """
        state = begun or RunState()
        begin, spent = time.monotonic(), state.spent
        measured: dict[str, object] = merge(state.rounds) if state.rounds else {}
        status, message = state.status, state.message
        with self._scratch() as scratch:
            for name in self.passes_of(run):
                if status is not Status.OK:
                    break
                if name == TIME:
                    state = replace(state, spent=spent)
                    while len(state.rounds) < self.rounds and state.status is Status.OK:
                        state = self.time_round(run, state, progress)
                    status, message, spent = state.status, state.message, state.spent
                    measured |= merge(state.rounds) if state.rounds else {}
                    continue
                reply, status, message = self._pass(name, run, scratch, spent, progress)
                spent += reply.seconds
                fault = fault_of_traces({**measured, **reply.value}) if status is Status.OK else None
                if fault is not None:
                    status, message = Status.ERROR, f"{name} pass: {fault}"
                if status is Status.OK:
                    measured |= reply.value
        earlier = 0.0 if begun is None else begun.seconds
        measured["process_seconds"] = earlier + time.monotonic() - begin
        return Record(run, status, message, measured, circumstances)

    @contextmanager
    def _scratch(self) -> Iterator[str]:
        """Give a folder of a run's own, inside of the sweep's or of one made for it."""
        with temporary_folder(self.shared) as folder:
            if self.shared is not None:
                yield folder
                return
            scratch = Path(folder) / "run"
            scratch.mkdir()
            yield str(scratch)

    def _pass(self, name: str, run: Run, scratch: str, spent: float, progress: Listener) -> tuple[Reply, Status, str]:
        """Run one pass, again where the machine failed; return its reply and what to make of it."""
        progress({"pass": name})
        left = None if self.timeout is None else max(0.0, self.timeout - spent)
        for attempt in range(self.retries + 1):
            reply = self._call(self.function, (name, run, scratch), left, progress, timed=name == TIME)
            if reply.status is not Status.INFRASTRUCTURE or attempt == self.retries:
                break
            _log.warning("%s pass of %s: tried again: %s", name, run.run_id, reply.message)
        status, message = self._judge(name, reply)
        value = reply.value if status is Status.OK else {}
        found = {column: value[column] for column in HEADLINES if column in value}
        progress({"pass": name, "ended": str(status), "found": found})
        return reply, status, message

    def _call(
        self,
        function: str,
        arguments: tuple[object, ...],
        timeout: float | None,
        progress: Listener,
        timed: bool = False,
    ) -> Reply:
        cores = self.cores[-self.threads :] if timed else self.cores
        visible = () if self.gpu is None else (("CUDA_VISIBLE_DEVICES", self.gpu),)
        call = Call(function, arguments, self.threads, self.folder, "", cores, self.memory_bytes, visible)
        return call_in_process(call, timeout=timeout, progress=progress, stop=self.stop)

    def _judge(self, name: str, reply: Reply) -> tuple[Status, str]:
        """Return the status and message of a pass: the reply's own, or an error if it holds no columns."""
        if reply.status is Status.TIMEOUT:
            return reply.status, (
                f"{name} pass: stopped because the run's passes took more than {self.timeout:g} s together; "
                "give a larger --timeout or a smaller run"
            )
        if reply.status is Status.OUT_OF_MEMORY and self.memory_bytes is not None:
            return reply.status, f"{name} pass: {reply.message} (limit {self.memory_bytes} bytes, --memory)"
        if reply.status is not Status.OK:
            return reply.status, f"{name} pass: {reply.message}"
        fault = _fault_of_columns(reply.value)
        return (Status.OK, "") if fault is None else (Status.ERROR, f"{name} pass: {fault}")


def _fault_of_columns(value: object) -> str | None:
    """Return why what a pass returned are no columns; None if they are."""
    if not isinstance(value, dict):
        return f"returned {type(value).__name__}; expected a dict of columns"
    unknown = sorted(set(value) - MEASURED)
    if unknown:
        return f"returned unknown column {unknown[0]!r}; see odegrad.records.columns"
    return fault_of_measured(value)
