"""The child's side of a fresh process: run one function, and say how it went, whatever happens.

What goes back to the parent is JSON, one message at a time: ``started``, any number of ``progress``, and at the end
``result`` or ``failure``. No object crosses the boundary, so nothing that a method returns can break the parent.
"""

import contextlib
import importlib
import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from odegrad.errors import InfrastructureError, OdegradError, SolverError, UnsupportedError
from odegrad.processes.link import Call, Listener, Send
from odegrad.records.record import Status

MESSAGE_SECONDS = 0.1
"""Shortest time between two progress messages; those in between are dropped."""

MESSAGE_LINES, MESSAGE_CHARACTERS = 3, 500
"""How much of an error's text goes into a record."""

TEXT_CHARACTERS = 20_000
"""How much of the text of an error that odegrad raises on purpose goes to a command."""

CPU_ALLOCATOR = "DefaultCPUAllocator"
"""Torch raises a plain RuntimeError with this word in it where a CPU tensor does not fit into memory."""


def perform(call: Call, send: Send) -> None:
    """Run ``call`` and send every message; what the function raises becomes a message."""
    try:
        send({"kind": "started"})
        module, _, name = call.function.partition(":")
        os.chdir(call.folder)
        torch.set_num_threads(call.threads)
        value = getattr(importlib.import_module(module), name)(*call.arguments, _reporter(send))
        reason = not_plain(value)
        _flush()
        if reason is None:
            send({"kind": "result", "value": value})
        else:
            send(_failure(Status.ERROR, f"{call.function} returned {reason}; plain data is expected"))
    except BaseException as error:  # a method may raise anything, SystemExit included
        known = isinstance(error, OdegradError)
        if not known:
            traceback.print_exc()
        _flush()
        told = {"raised": type(error).__name__, "text": str(error)[:TEXT_CHARACTERS]} if known else {}
        send(_failure(status_of(error), describe(error)) | told)


def _flush() -> None:
    """Write out what was printed: the parent ends this process as soon as it has the reply."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


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


def _reporter(send: Send) -> Listener:
    last = -MESSAGE_SECONDS

    def report(message: Mapping[str, object]) -> None:
        nonlocal last
        now = time.monotonic()
        if ("line" in message or now - last >= MESSAGE_SECONDS) and not_plain(dict(message)) is None:
            last = now
            send({"kind": "progress", "message": dict(message)})

    return report


def _failure(status: Status, message: str) -> dict[str, str]:
    return {"kind": "failure", "status": str(status), "message": message}
