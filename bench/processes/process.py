"""The parent's side of a fresh process: start it from the fork server, watch it, end it with its whole family.

Processes are forked from a server that has already imported torch and the modules named by ``prepare``, so that a
start costs milliseconds. The server is started with the allocator settings below, because the C library reads them
only then: without them every large tensor goes back to the kernel when it is freed, and a benchmark on a CPU measures
page faults.
"""

import contextlib
import functools
import logging
import multiprocessing
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from odegrad.processes.deaths import oom_kills
from odegrad.processes.framing import KEY_BYTES, Receiver
from odegrad.processes.groups import group_of_call
from odegrad.processes.link import Call, Listener, serve
from odegrad.processes.listening import BASE_BYTES, MAX_PROCESSES, Reply, Watch, listen, tail_of
from odegrad.processes.reaping import end_family, end_orphans
from odegrad.records.record import Status
from odegrad.records.temporary import clean_up, own_prefix, temporary_folder

ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**26)}
"""Keep freed memory in the process instead of returning it to the kernel (bytes); the user's own settings win."""

LOGGED_CHARACTERS = 2000
"""How much of a failed process's last output is logged."""

SOCKET_FOLDER_CHARACTERS = 80
"""The address of the fork server's socket holds 107 characters (104 on a Mac), its own name is up to 20 of them."""

_starting = threading.Lock()
"""Processes are started one at a time: what they find in the environment is this whole process's."""

_measuring: set[int] = set()
"""Ids of the processes that measure now."""

_context = multiprocessing.get_context("forkserver")
_log = logging.getLogger(__name__)


def prepare(modules: list[str]) -> None:
    """Have the fork server import ``modules`` when it starts; a module that cannot be imported is left out.

    ``torch._dynamo`` is among them because the first optimizer of a process imports it, which takes about a second. So
    is what this process has imported of odegrad, because every process runs this one's main module again and with it
    the imports there.
    """
    ours = sorted(name for name in sys.modules if name.partition(".")[0] == "odegrad")
    _context.set_forkserver_preload(
        ["odegrad.processes.reaping_server", "torch", "torch._dynamo", "odegrad.processes.child", *ours, *modules]
    )


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
    clean_up()
    key = secrets.token_bytes(KEY_BYTES)
    limit = None if call.memory_bytes is None else call.memory_bytes + BASE_BYTES
    with (
        tempfile.NamedTemporaryFile(prefix=own_prefix(os.getpid())) as output,
        group_of_call(limit, MAX_PROCESSES + 4 * call.threads) as group,
    ):
        receiver, sender = _context.Pipe(duplex=False)
        started = replace(call, output=output.name, group="" if group is None else str(group.path))
        process = _context.Process(target=serve, args=(sender, key, started))
        try:
            reply = _start(process, call.threads)
            if reply is None:
                sender.close()
                watch = Watch(
                    process, receiver, Receiver(key), Path(output.name), oom_kills(), timeout, call.memory_bytes, stop,
                    group,
                )  # fmt: skip
                reply = listen(watch, progress)
        finally:
            sender.close()
            receiver.close()
            _end(process)
        reply = replace(reply, output=tail_of(Path(output.name)))
        if reply.status is not Status.OK:
            _log.debug("%s: %s; last output:\n%s", call.function, reply.message, reply.output[-LOGGED_CHARACTERS:])
        return reply


@functools.cache
def _name_socket_folder() -> "tempfile.TemporaryDirectory[str] | None":
    """Have the fork server's socket lie in a folder that says whose it is, where its path stays short enough.

    Otherwise it lies in one of multiprocessing's own, which nobody removes if this process is killed.
    """
    settings = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    if "tempdir" in settings:
        return None
    folder = temporary_folder()
    if len(folder.name) > SOCKET_FOLDER_CHARACTERS:
        folder.cleanup()
        return None
    settings["tempdir"] = folder.name
    return folder


def _start(process: ForkServerProcess, threads: int) -> Reply | None:
    """Start ``process``; return a reply only if that failed."""
    try:
        _name_socket_folder()
        with _starting, _environment(threads):
            process.start()
            if process.pid is not None:
                _measuring.add(process.pid)
    except (OSError, EOFError) as error:
        # The fork server's socket lies in the folder of temporary files, and its address holds 107 characters.
        hint = "; set TMPDIR to a folder with a shorter path, as /tmp" if "AF_UNIX" in str(error) else ""
        return Reply(Status.INFRASTRUCTURE, f"no process could be started: {type(error).__name__}: {error}{hint}")
    return None


def _end(process: ForkServerProcess) -> None:
    """Kill what is left of ``process`` and of everything it started, and release it."""
    if process.pid is None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process.pid, signal.SIGSTOP)  # so that it starts nothing more
    end_family(process.pid)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    with _starting:
        _measuring.discard(process.pid)
        end_orphans(_measuring)
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
