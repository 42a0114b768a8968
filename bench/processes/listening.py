"""Hearing a measuring process: its messages, its end, and its limits of time, memory and output."""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from odegrad.processes.deaths import death, family_of, memory_limit, oom_kills, resident
from odegrad.processes.framing import GarbledReply, Receiver
from odegrad.processes.groups import ControlGroup
from odegrad.processes.link import Listener
from odegrad.records.record import Status

START_SECONDS = 60.0
"""A process that has not said hello by then could not start: the machine's fault, not the method's."""

WATCH_SECONDS = 0.2
"""How often the resident size and the size of the output are read."""

BASE_BYTES = 2**30
"""What a process may hold beside its memory limit: Python, torch and the libraries under it."""

MAX_PROCESSES = 1000
"""How many processes one run may have at a time."""

OUTPUT_BYTES = 2**16
"""How much of a process's last output is kept; a file of output that grows beyond sixteen times that is cut."""

_CHUNK = 2**20


@dataclass(frozen=True)
class Raised:
    """An error that odegrad raised on purpose in the process."""

    kind: str
    """The name of its class in ``odegrad.errors``."""
    text: str


@dataclass(frozen=True)
class Reply:
    """What came of a call: its value, or why there is none."""

    status: Status
    message: str = ""
    value: Any = None
    seconds: float = 0.0
    """From the process's hello to its end."""
    raised: Raised | None = None
    """What was raised on purpose, if that is why."""
    output: str = ""
    """The last of what it printed."""


class Stopped(Exception):  # noqa: N818
    """The sweep ends: the call was given up."""


@dataclass
class Watch:
    """What is known of a running process, and when to give it up."""

    process: ForkServerProcess
    channel: Connection
    receiver: Receiver
    output: Path
    oom_kills: int
    timeout: float | None
    memory_bytes: int | None
    stop: threading.Event | None
    group: ControlGroup | None = None
    """In which the kernel holds its limits, where there is one."""
    resident_bytes: int = 0
    processes: int = 0
    """How many the family had when it was looked at."""
    started: float | None = None
    looked: float = 0.0
    """When the size of its output was looked at."""


def listen(watch: Watch, progress: Listener) -> Reply:
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
            family = family_of(watch.process.pid)
            watch.resident_bytes, watch.processes = resident(family) or watch.resident_bytes, len(family)
            continue
        data = os.read(watch.channel.fileno(), _CHUNK)
        if not data:
            return _reply_of_the_dead(watch)
        try:
            for message in watch.receiver.messages(data):
                if message["kind"] == "started":
                    watch.started = time.monotonic()
                elif message["kind"] == "progress":
                    progress(message["message"])
                else:
                    return _reply(message, time.monotonic() - (watch.started or begin))
        except GarbledReply as error:
            return Reply(Status.ERROR, str(error), seconds=time.monotonic() - (watch.started or begin))


def _reply(message: Mapping[str, Any], seconds: float) -> Reply:
    if message["kind"] == "result":
        return Reply(Status.OK, "", message["value"], seconds)
    raised = Raised(message["raised"], message.get("text", "")) if "raised" in message else None
    return Reply(Status(message["status"]), message["message"], None, seconds, raised)


def _over(watch: Watch, begin: float) -> Reply | None:
    """Return a reply if the process has used up its time or memory; cut its output if it has grown large."""
    now = time.monotonic()
    if watch.stop is not None and watch.stop.is_set():
        raise Stopped
    if now - watch.looked > WATCH_SECONDS:
        watch.looked = now
        cap(watch.output)
    if watch.started is None:
        late = now - begin > START_SECONDS
        return Reply(Status.INFRASTRUCTURE, f"the process did not start within {START_SECONDS:g} s") if late else None
    seconds = now - watch.started
    if watch.timeout is not None and seconds > watch.timeout:
        return Reply(Status.TIMEOUT, f"stopped after {watch.timeout:g} s", seconds=seconds)
    if watch.memory_bytes is not None and watch.resident_bytes > watch.memory_bytes + BASE_BYTES:
        message = f"stopped because the process and its children held {watch.resident_bytes} bytes"
        return Reply(Status.OUT_OF_MEMORY, message, seconds=seconds)
    if watch.processes > MAX_PROCESSES:
        message = f"stopped because it had started more than {MAX_PROCESSES} processes"
        return Reply(Status.ERROR, message, seconds=seconds)
    return None


def _reply_of_the_dead(watch: Watch) -> Reply:
    """Return why a process ended that sent no reply."""
    watch.process.join(WATCH_SECONDS * 10)
    code = watch.process.exitcode
    if code is None:
        return Reply(Status.ERROR, "the process closed the reply channel and went on without a result")
    seconds = 0.0 if watch.started is None else time.monotonic() - watch.started
    if watch.started is None:
        return Reply(Status.INFRASTRUCTURE, f"the process ended with code {code} before it could start")
    held_most = watch.resident_bytes > memory_limit() / 2
    held_most |= watch.group is not None and watch.group.ran_out_of_memory
    status, message = death(code, held_most, oom_kills() > watch.oom_kills)
    return Reply(status, message, seconds=seconds)


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
