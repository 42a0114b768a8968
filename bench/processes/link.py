"""What a fresh process starts with: the call, the channel to the parent, and a life that ends with the parent's.

Nothing here imports torch: the parent may be a process that must stay small, such as a cluster's worker.
"""

import faulthandler
import gc
import importlib
import os
import resource
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from odegrad.processes.framing import Sender
from odegrad.processes.groups import enter
from odegrad.processes.reaping import become_reaper, end_family

PERFORMER = "odegrad.processes.child"
"""The module whose ``perform`` runs the call; it imports torch."""

Send = Callable[[Mapping[str, object]], None]

Listener = Callable[[Mapping[str, Any]], None]
"""Hears of progress: small dictionaries such as ``{"pass": "train", "iteration": 12, "of": 80, "loss": 0.31}``."""


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
    cores
        The logical cores that the process may use; empty: all that the parent may.
    memory_bytes
        How much the process may allocate above what it starts with, on the CPU; None: no limit.
    environment
        Variables to set before anything runs, ``CUDA_VISIBLE_DEVICES`` for example.
    """

    function: str
    arguments: tuple[Any, ...]
    threads: int
    folder: str
    output: str
    cores: tuple[int, ...] = ()
    memory_bytes: int | None = None
    environment: tuple[tuple[str, str], ...] = ()
    group: str = ""
    """Folder of the control group that the process moves into; chosen where it is started, empty for none."""


def serve(channel: Connection, key: bytes, call: Call) -> None:
    """Run ``call`` and send every message into ``channel``, framed with ``key``; what it raises becomes a message."""
    os.setsid()  # a group of its own: Ctrl-C reaches the parent only, and the parent can end the whole group
    become_reaper()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _redirect_output(call.output)
    if call.group:
        enter(call.group)
    os.environ.update(call.environment)
    if call.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, call.cores)
    if call.memory_bytes is not None:
        limit_memory(call.memory_bytes)

    perform = importlib.import_module(PERFORMER).perform
    # What the fork server has loaded lives as long as the process: a collection that walks it takes a quarter of a
    # second, copies its pages, and finds nothing.
    gc.freeze()
    perform(call, Sender(channel.fileno(), key))
    channel.close()


def limit_memory(more_bytes: int) -> None:
    """Let this process allocate ``more_bytes`` above what it holds now; beyond, allocations fail.

    The limit is on the data segment (``RLIMIT_DATA``: heap and private writable mappings), because the address space
    also holds libraries and what CUDA reserves. Where the system does not say how large it is now, nothing is limited
    here, and the parent's watch on the resident size is what remains.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmData:"):
            held = int(line.split()[1]) * 1024
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            wanted = held + more_bytes
            resource.setrlimit(
                resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
            )


def _redirect_output(path: str) -> None:
    """Send everything printed, by compiled code too, to ``path``, and the Python stack there if the process crashes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    faulthandler.enable()


def _die_with_parent() -> None:
    """Kill this process's descendants and group when the parent has gone, so that no orphan computes on."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        end_family(os.getpid())
        os.killpg(0, signal.SIGKILL)
