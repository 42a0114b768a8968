"""The parent's side of a fresh process: start it from the fork server, watch it, end it with its whole family.

Processes are forked from a server that has already imported torch and the modules named by ``prepare``, so that a
start costs milliseconds. The server is started with the allocator settings below, because the C library reads them
only then: without them every large tensor goes back to the kernel when it is freed, and a benchmark on a CPU measures
page faults.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

from odegrad.processes.link import Call, Listener, serve
from odegrad.records.record import Status

ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**26)}
"""Keep freed memory in the process instead of returning it to the kernel (bytes); the user's own settings win."""

START_SECONDS = 60.0
"""A process that has not said hello by then could not start: the machine's fault, not the method's."""

WATCH_SECONDS = 0.2
"""How often the resident size is read."""

MEMORY_SHARE = 0.9
"""How much of the machine's memory the runs may allocate together, unless told otherwise."""

BASE_BYTES = 2**30
"""What a process may hold beside its memory limit: Python, torch and the libraries under it."""

OUTPUT_BYTES = 2**16
"""How much of a process's last output is kept; a file of output that grows beyond sixteen times that is cut."""

LOGGED_CHARACTERS = 2000
"""How much of a failed process's last output is logged."""

REPLY_BYTES = 2**28
"""A longer message is refused."""

_starting = threading.Lock()
"""Processes are started one at a time: what they find in the environment is this whole process's."""

_context = multiprocessing.get_context("forkserver")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """What came of a call: its value, or why there is none."""

    status: Status
    message: str = ""
    value: Any = None
    seconds: float = 0.0
    """From the process's hello to its end."""
    raised: "Raised | None" = None
    """What was raised on purpose, if that is why."""
    output: str = ""
    """The last of what it printed."""


@dataclass(frozen=True)
class Raised:
    """An error that odegrad raised on purpose in the process."""

    kind: str
    """The name of its class in ``odegrad.errors``."""
    text: str


class Stopped(Exception):  # noqa: N818
    """The sweep ends: the call was given up."""


@dataclass
class _Watch:
    """What is known of a running process, and when to give it up."""

    process: ForkServerProcess
    channel: Connection
    output: Path
    oom_kills: int
    timeout: float | None
    memory_bytes: int | None
    stop: threading.Event | None
    resident_bytes: int = 0
    started: float | None = None
    looked: float = 0.0
    """When the size of its output was looked at."""


def prepare(modules: list[str]) -> None:
    """Have the fork server import ``modules`` when it starts; a module that cannot be imported is left out.

    ``torch._dynamo`` is among them because the first optimizer of a process imports it, which takes about a second. So
    is what this process has imported of odegrad, because every process runs this one's main module again and with it
    the imports there.
    """
    ours = sorted(name for name in sys.modules if name.partition(".")[0] == "odegrad")
    _context.set_forkserver_preload(["torch", "torch._dynamo", "odegrad.processes.child", *ours, *modules])


def call_in_process(
    call: Call,
    *,
    timeout: float | None,
    progress: Listener,
    stop: threading.Event | None = None,
) -> Reply:
    """Run ``call`` in a fresh process and return what came of it, whatever happens there.

    Parameters
    ----------
    call
        The function and the settings; ``output`` is chosen here.
    timeout
        Seconds after which the process and its children are killed; None waits for ever.
    progress
        Hears the process's progress messages.
    stop
        Once it is set, the process is killed.

    Raises
    ------
    Stopped
        If ``stop`` was set before the process had replied.
    """
    with tempfile.NamedTemporaryFile(prefix="odegrad_") as output:
        receiver, sender = _context.Pipe(duplex=False)
        process = _context.Process(target=serve, args=(sender, replace(call, output=output.name)))
        try:
            reply = _start(process, call.threads)
            if reply is None:
                sender.close()
                watch = _Watch(process, receiver, Path(output.name), oom_kills(), timeout, call.memory_bytes, stop)
                reply = _listen(watch, progress)
        finally:
            sender.close()
            receiver.close()
            _end(process)
        reply = replace(reply, output=tail_of(Path(output.name)))
        if reply.status is not Status.OK:
            _log.debug("%s: %s; last output:\n%s", call.function, reply.message, reply.output[-LOGGED_CHARACTERS:])
        return reply


def tail_of(path: Path) -> str:
    """Return the last ``OUTPUT_BYTES`` of a file as text."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - OUTPUT_BYTES))
        return file.read(OUTPUT_BYTES).decode(errors="replace")


def cap(path: Path) -> None:
    """Cut what a process has printed down to its tail where it has grown large; the process goes on printing there."""
    if path.stat().st_size > 16 * OUTPUT_BYTES:
        tail = tail_of(path)
        os.truncate(path, 0)
        with path.open("ab") as file:
            file.write(f"[earlier output was dropped]\n{tail}".encode())


def _start(process: ForkServerProcess, threads: int) -> Reply | None:
    """Start ``process``; return a reply only if that failed."""
    try:
        with _starting, _environment(threads):
            process.start()
    except (OSError, EOFError) as error:
        return Reply(Status.INFRASTRUCTURE, f"no process could be started: {type(error).__name__}: {error}")
    return None


def _listen(watch: _Watch, progress: Listener) -> Reply:
    """Hear the process's messages until it has replied, died or used up its time or memory."""
    begin = time.monotonic()
    while True:
        over = _over(watch, begin)
        if over is not None:
            return over
        ready = wait([watch.channel, watch.process.sentinel], timeout=WATCH_SECONDS)
        if not watch.channel.poll():
            if ready:
                return _reply_of_the_dead(watch)
            watch.resident_bytes = _resident(watch.process.pid) or watch.resident_bytes
            continue
        try:
            message = json.loads(watch.channel.recv_bytes(REPLY_BYTES))
        except EOFError:
            return _reply_of_the_dead(watch)
        except OSError:
            return Reply(Status.ERROR, f"the reply is longer than {REPLY_BYTES} bytes")
        if message["kind"] == "started":
            watch.started = time.monotonic()
        elif message["kind"] == "progress":
            progress(message["message"])
        else:
            status = Status.OK if message["kind"] == "result" else Status(message["status"])
            seconds = time.monotonic() - (watch.started or begin)
            raised = Raised(message["raised"], message["text"]) if "raised" in message else None
            return Reply(status, message.get("message", ""), message.get("value"), seconds, raised)


def _over(watch: _Watch, begin: float) -> Reply | None:
    """Return a reply if the process has used up its time or memory."""
    now = time.monotonic()
    if now - watch.looked > WATCH_SECONDS:
        watch.looked = now
        cap(watch.output)
    if watch.stop is not None and watch.stop.is_set():
        raise Stopped
    if watch.started is None:
        late = now - begin > START_SECONDS
        return Reply(Status.INFRASTRUCTURE, f"the process did not start within {START_SECONDS:g} s") if late else None
    seconds = now - watch.started
    if watch.timeout is not None and seconds > watch.timeout:
        return Reply(Status.TIMEOUT, f"stopped after {watch.timeout:g} s", seconds=seconds)
    if watch.memory_bytes is not None and watch.resident_bytes > watch.memory_bytes + BASE_BYTES:
        message = f"stopped because the process and its children held {watch.resident_bytes} bytes"
        return Reply(Status.OUT_OF_MEMORY, message, seconds=seconds)
    return None


def _reply_of_the_dead(watch: _Watch) -> Reply:
    """Return why a process ended that sent no reply."""
    watch.process.join(WATCH_SECONDS * 10)
    code = watch.process.exitcode
    seconds = 0.0 if watch.started is None else time.monotonic() - watch.started
    if watch.started is None:
        return Reply(Status.INFRASTRUCTURE, f"the process ended with code {code} before it could start")
    out_of_memory = oom_kills() > watch.oom_kills or watch.resident_bytes > memory_limit() / 2
    status, message = death(code, out_of_memory)
    return Reply(status, message, seconds=seconds)


def death(code: int | None, out_of_memory: bool) -> tuple[Status, str]:
    """Return status and message of a process that ended with exit ``code`` (negative: a signal) without a reply.

    ``out_of_memory`` says whether the kernel ran out of memory meanwhile, or the process held most of it.
    """
    if code is None or code >= 0:
        return Status.ERROR, f"the process ended with exit code {code} and without a result"
    name = next((s.name for s in signal.Signals if s == -code), f"signal {-code}")
    if -code == signal.SIGKILL and out_of_memory:
        return Status.OUT_OF_MEMORY, "the kernel killed the process because memory ran out"
    return Status.ERROR, f"the process was killed by {name}"


def oom_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory since it started; 0 where it does not say."""
    counters = Path("/proc/vmstat")
    if counters.is_file():
        for line in counters.read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def memory_limit() -> int:
    """Return the bytes of memory that a process may use: the machine's, or its control group's if that is less."""
    limits: list[int] = [psutil.virtual_memory().total]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(name)
        text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def memory_share(runs: int) -> int:
    """Return the bytes that each of ``runs`` runs at a time may allocate, unless told otherwise."""
    return int(memory_limit() * MEMORY_SHARE) // runs


def _resident(pid: int | None) -> int:
    """Return the resident bytes of process ``pid`` and its children, 0 if it has gone."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for member in family:
        with contextlib.suppress(psutil.Error):
            total += int(member.memory_info().rss)
    return total


def _end(process: ForkServerProcess) -> None:
    """Kill what is left of ``process`` and of everything it started, and release it."""
    if process.pid is None:
        return
    family = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()
    process.kill()
    process.join()
    process.close()


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Set what the fork server must find in its environment, and restore the caller's afterwards."""
    wanted = {**ALLOCATOR, "OMP_NUM_THREADS": str(threads)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if name == "OMP_NUM_THREADS" or not before[name]})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
