"""No descendant outlives a run: orphans stay in the family of the process that measures, or of the fork server.

On Linux both are subreapers (``prctl(PR_SET_CHILD_SUBREAPER)``): what a measured program leaves behind, daemons in
sessions of their own too, becomes their child, is found there and ended. Elsewhere the process's group and the children
that it still has are ended.
"""

import contextlib
import ctypes
import sys
import time
from collections.abc import Iterable
from multiprocessing import forkserver

import psutil

_SET_CHILD_SUBREAPER = 36
"""``PR_SET_CHILD_SUBREAPER`` of ``<linux/prctl.h>``."""

GONE_SECONDS = 5.0
"""How long a family may take to end after it was killed."""


def become_reaper() -> None:
    """Have orphans below this process become its children, where the system can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_family(pid: int, but: Iterable[int] = ()) -> None:
    """Kill every descendant of process ``pid``, until there is none; processes ``but`` are left, with theirs.

    They are stopped before they are killed: what is stopped starts nothing more, however fast it did.
    """
    spared, end = set(but), time.monotonic() + GONE_SECONDS
    while time.monotonic() < end:
        stopped: dict[int, psutil.Process] = {}
        while more := {each.pid: each for each in _descendants(pid, spared) if each.pid not in stopped}:
            stopped |= more
            for each in more.values():
                with contextlib.suppress(psutil.Error):
                    each.suspend()
        if not stopped:
            return
        for each in stopped.values():
            with contextlib.suppress(psutil.Error):
                each.kill()
        time.sleep(0.002)


def end_orphans(measuring: Iterable[int]) -> None:
    """Kill what ended runs have left to the fork server; ``measuring`` are its processes that still measure."""
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    if server is not None:
        end_family(server, but=measuring)


def _descendants(pid: int, spared: Iterable[int]) -> list[psutil.Process]:
    """Return the living descendants of a process; those of the ``spared`` are left out."""
    if not spared:
        return _children(pid, deep=True)
    found = [each for each in _children(pid) if each.pid not in set(spared)]
    return [*found, *(each for child in found for each in _children(child.pid, deep=True))]


def _children(pid: int, deep: bool = False) -> list[psutil.Process]:
    """Return the children of a process that are still alive."""
    with contextlib.suppress(psutil.Error):
        found = psutil.Process(pid).children(recursive=deep)
        return [each for each in found if _alive(each)]
    return []


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
