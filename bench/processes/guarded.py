"""Code of a user's own on behalf of a command: run in a measuring process, so that the command's own outlives it.

A file that ends its process, hangs, prints without end or takes all memory when it is imported is then answered with a
sentence, as it is when it does so while it is measured.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import odegrad.errors
from odegrad.errors import InfrastructureError, OdegradError, UnknownNameError, UsageError
from odegrad.processes.link import Call
from odegrad.processes.listening import Reply
from odegrad.processes.preload import preload
from odegrad.processes.process import call_in_process, prepare
from odegrad.records.record import Status


def guarded(
    function: str,
    *arguments: object,
    what: str,
    timeout: float | None = None,
    threads: int = 0,
    tell: Callable[[str], None] | None = None,
) -> Any:
    """Return what ``function`` returns, run in a measuring process; what is printed there goes to standard error.

    Parameters
    ----------
    function
        ``module:function`` of odegrad's own, called with ``arguments`` and a progress callback; returns plain data.
    arguments
        Plain data.
    what
        What an error names: the file, the suite.
    timeout
        Seconds that it may take; None: no limit.
    threads
        Threads of one tensor operation; 0: as in this process.
    tell
        Takes the lines that ``function`` tells by ``progress({"line": ...})``.

    Raises
    ------
    OdegradError
        What ``function`` raised on purpose.
    UsageError
        If the process ended, was stopped or raised anything else; the message says which.
    InfrastructureError
        If the machine failed.
    """
    prepare(preload())
    hear = tell or (lambda _line: None)
    call = Call(function, arguments, threads or torch.get_num_threads(), str(Path.cwd()), output="")
    reply = call_in_process(call, timeout=timeout, progress=lambda message: hear(str(message.get("line", ""))))
    if reply.output:
        print(reply.output, end="" if reply.output.endswith("\n") else "\n", file=sys.stderr)
    if reply.status is Status.OK:
        return reply.value
    raise _error(reply, what)


def _error(reply: Reply, what: str) -> OdegradError:
    """Return the error that a reply tells of: what was raised there on purpose, or how the process ended."""
    if reply.raised is not None:
        kind = getattr(odegrad.errors, reply.raised.kind, None)
        if isinstance(kind, type) and issubclass(kind, OdegradError) and kind is not UnknownNameError:
            return kind(reply.raised.text)
        return UsageError(reply.raised.text)
    if reply.status is Status.INFRASTRUCTURE:
        return InfrastructureError(f"{what}: {reply.message}; try again")
    hint = "; give a larger --timeout" if reply.status is Status.TIMEOUT else ""
    return UsageError(f"{what}: {reply.message}{hint}")
