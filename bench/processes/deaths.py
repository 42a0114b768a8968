"""How processes end without a word, and how much memory they may take."""

import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path

import psutil

from odegrad.records.record import Status

MEMORY_SHARE = 0.9
"""How much of the machine's memory the runs may allocate together, unless told otherwise."""

CRASHES = frozenset(
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGSYS", "SIGTRAP", "SIGPIPE", "SIGALRM")
    if hasattr(signal, name)
)
"""Signals by which a program ends itself; any other one comes from outside."""


def death(code: int | None, held_most: bool, memory_ran_out: bool) -> tuple[Status, str]:
    """Return status and message of a process that ended with exit ``code`` (negative: a signal) without a reply.

    Parameters
    ----------
    code
        Of the process.
    held_most
        Whether the process held most of the memory that it may use.
    memory_ran_out
        Whether the kernel killed processes for lack of memory meanwhile.
    """
    if code is None or code >= 0:
        return Status.ERROR, f"the process ended with exit code {code} and without a result"
    name = next((s.name for s in signal.Signals if s == -code), f"signal {-code}")
    if -code in CRASHES:
        return Status.ERROR, f"the process was killed by {name}"
    if -code == signal.SIGKILL and held_most:
        return Status.OUT_OF_MEMORY, "the kernel killed the process because memory ran out"
    if -code == signal.SIGKILL and memory_ran_out:
        return Status.INFRASTRUCTURE, "the kernel killed the process because other processes took the memory"
    return Status.INFRASTRUCTURE, f"the process was killed from outside by {name}"


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


def family_of(pid: int | None) -> list[psutil.Process]:
    """Return process ``pid`` and its descendants; nobody if it has gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def resident(family: Sequence[psutil.Process]) -> int:
    """Return the resident bytes of processes, of those that are still there."""
    total = 0
    for member in family:
        with contextlib.suppress(psutil.Error):
            total += int(member.memory_info().rss)
    return total
