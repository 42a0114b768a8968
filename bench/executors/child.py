"""The child's side of a fresh process: run one function, and say how it went, whatever happens.

What goes back to the parent is JSON, one message at a time: ``started``, any number of ``progress``, and at the end
``result`` or ``failure``. No object crosses the boundary, so nothing that a method returns can break the parent.
"""

import faulthandler
import importlib
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from odegrad.errors import InfrastructureError, SolverError, UnsupportedError
from odegrad.record import Status

PROGRESS_SECONDS = 0.1
"""Shortest time between two progress messages; those in between are dropped."""

MESSAGE_LINES, MESSAGE_CHARACTERS = 3, 500
"""How much of an error's text goes into a record."""

CPU_ALLOCATOR = "DefaultCPUAllocator"
"""Torch raises a plain RuntimeError with this word in it where a CPU tensor does not fit into memory."""

Progress = Callable[[Mapping[str, Any]], None]
"""Takes small dictionaries such as ``{"pass": "train", "iteration": 12, "of": 80, "loss": 0.31}``."""


@dataclass(frozen=True)
class Call:
    """A function to run in a fresh process, and the process's settings.

    Parameters
    ----------
    function
        ``module:function``; its last argument is the progress callback, and it returns plain data.
    arguments
        What the function takes before the progress callback; pickled.
    threads
        Threads of one tensor operation.
    folder
        Working folder, where relative names such as ``my_method.py:MyMethod`` are looked up.
    output
        File that takes the process's standard output and standard error.
    """

    function: str
    arguments: tuple[Any, ...]
    threads: int
    folder: str
    output: str


def serve(channel: Connection, call: Call) -> None:
    """Run ``call`` and send every message into ``channel``; what the function raises becomes a message."""
    os.setsid()  # a group of its own: Ctrl-C reaches the parent only, and the parent can end the whole group
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _redirect_output(call.output)
    try:
        _send(channel, {"kind": "started"})
        module, _, name = call.function.partition(":")
        os.chdir(call.folder)
        torch.set_num_threads(call.threads)
        value = getattr(importlib.import_module(module), name)(*call.arguments, _reporter(channel))
        reason = not_plain(value)
        if reason is None:
            _send(channel, {"kind": "result", "value": value})
        else:
            _send(channel, _failure(Status.ERROR, f"{call.function} returned {reason}; plain data is expected"))
    except BaseException as error:  # a method may raise anything, SystemExit included
        traceback.print_exc()
        _send(channel, _failure(status_of(error), describe(error)))
    channel.close()


def status_of(error: BaseException) -> Status:
    """Return how a run ended that raised ``error``."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return Status.OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error):
        return Status.OUT_OF_MEMORY
    for kind, status in (
        (SolverError, Status.DIVERGED),
        (UnsupportedError, Status.UNSUPPORTED),
        (InfrastructureError, Status.INFRASTRUCTURE),
    ):
        if isinstance(error, kind):
            return status
    return Status.ERROR


def describe(error: BaseException) -> str:
    """Return the error's type and first lines, and for a foreign error the place that raised it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = "\n".join(lines[:MESSAGE_LINES])[:MESSAGE_CHARACTERS]
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    if status_of(error) is Status.ERROR and frames:
        message += f" ({Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name})"
    return message


def not_plain(value: Any, where: str = "value") -> str | None:
    """Return what in ``value`` is no plain data (None, bool, int, float, str, list, dict with text keys), or None."""
    if value is None or type(value) in {bool, int, float, str}:
        return None
    if type(value) is dict:
        items = [(f"{where}[{k!r}]", v) for k, v in value.items()]
        odd = [k for k in value if type(k) is not str]
        if odd:
            return f"a key of type {type(odd[0]).__name__} in {where}"
    elif type(value) is list:
        items = [(f"{where}[{i}]", v) for i, v in enumerate(value)]
    else:
        return f"a {type(value).__name__} as {where}"
    return next((reason for name, v in items if (reason := not_plain(v, name)) is not None), None)


def _reporter(channel: Connection) -> Progress:
    last = -PROGRESS_SECONDS

    def report(message: Mapping[str, Any]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS and not_plain(dict(message)) is None:
            last = now
            _send(channel, {"kind": "progress", "message": dict(message)})

    return report


def _failure(status: Status, message: str) -> dict[str, str]:
    return {"kind": "failure", "status": str(status), "message": message}


def _send(channel: Connection, message: Mapping[str, Any]) -> None:
    channel.send_bytes(json.dumps(message).encode())


def _redirect_output(path: str) -> None:
    """Send everything printed, by compiled code too, to ``path``, and the Python stack there if the process crashes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    faulthandler.enable()


def _die_with_parent() -> None:
    """Kill this process's group when the parent has gone, so that no orphan computes on."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)
