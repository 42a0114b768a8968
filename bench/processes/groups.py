"""Control groups (version 2) of Linux: limits that the kernel holds on all processes of a run together.

They are used where the system lets this command make groups: where the group that it runs in is its own, as below
``systemd-run --user --scope -p Delegate=yes`` and in many containers. Elsewhere there are none, and the limits are
those of each process (``RLIMIT_DATA``) and of whoever watches it.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil

from odegrad.processes.reaping import GONE_SECONDS
from odegrad.records.temporary import left_behind, own_prefix

MOUNT = Path("/sys/fs/cgroup")
"""Where the kernel shows its groups."""

CONTROLLERS = frozenset({"memory", "pids"})

_COMMAND = "command"


@dataclass(frozen=True)
class ControlGroup:
    """A group for the processes of one call."""

    path: Path

    def limit(self, memory_bytes: int | None, processes: int) -> None:
        """Let the group hold so many bytes, none of them swapped out, and so many processes and threads."""
        _write(self.path / "pids.max", processes)
        if memory_bytes is None:
            return
        _write(self.path / "memory.max", memory_bytes)
        for name, value in (("memory.swap.max", 0), ("memory.oom.group", 1)):
            if (self.path / name).exists():  # not in every kernel
                _write(self.path / name, value)

    @property
    def ran_out_of_memory(self) -> bool:
        """Return whether the kernel has killed it because it held more than its limit."""
        return _event(self.path / "memory.events", "oom_kill") > 0

    def end(self) -> None:
        """Kill all that is in the group, at once, and remove it."""
        _end(self.path)


@contextlib.contextmanager
def group_of_call(memory_bytes: int | None, processes: int) -> Iterator[ControlGroup | None]:
    """Yield a group with these limits for one call, or None where the system allows none; it is gone at the end."""
    home = home_of_groups()
    if home is None:
        yield None
        return
    group = ControlGroup(home / f"{own_prefix(os.getpid())}{time.monotonic_ns()}")
    try:
        group.path.mkdir()
        group.limit(memory_bytes, processes)
    except OSError:
        group.end()
        yield None
        return
    try:
        yield group
    finally:
        group.end()


def enter(path: str) -> None:
    """Move this process into the group at ``path``."""
    _write(Path(path) / "cgroup.procs", 0)


@lru_cache(maxsize=1)
def home_of_groups() -> Path | None:
    """Return the group in which this process may make groups with limits; None if there is none. Looked for once."""
    return prepared_home(own_group(MOUNT, Path("/proc/self/cgroup")))


def own_group(mount: Path, membership: Path) -> Path | None:
    """Return the folder of the group that this process is in, if it is this user's to divide.

    Root may write into every group; of those only one that was handed over (``Delegate=yes`` of systemd), or the
    first that a container sees, is meant to be divided.
    """
    if not (mount / "cgroup.controllers").is_file() or not membership.is_file():
        return None
    lines = membership.read_text(encoding="utf-8", errors="replace").splitlines()
    inside = next((line[3:] for line in lines if line.startswith("0::/")), None)
    if inside is None or ".." in inside:
        return None
    group = mount / inside.lstrip("/")
    if os.geteuid() == 0 and group != mount and not _delegated(group):
        return None
    return group


def prepared_home(group: Path | None) -> Path | None:
    """Return ``group`` once groups below it may have limits, or None.

    A group with limits below it may hold no processes itself, so this command moves into a group of its own there. If
    others share its group nothing is changed.
    """
    if group is None:
        return None
    try:
        if not set(_words(group / "cgroup.controllers")) >= CONTROLLERS:
            return None
        _remove_left(group)
        if set(_words(group / "cgroup.subtree_control")) >= CONTROLLERS:
            return group
        ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
        inside = {int(word) for word in _words(group / "cgroup.procs")}
        if not inside <= ours:
            return None
        leaf = group / f"{own_prefix(os.getpid())}{_COMMAND}"
        leaf.mkdir()
        for pid in sorted(inside):
            _write(leaf / "cgroup.procs", pid)
        _write(group / "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(CONTROLLERS)))
    except (OSError, ValueError, psutil.Error):
        return None
    return group


def _delegated(group: Path) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


def _remove_left(home: Path) -> None:
    """Remove the groups of killed commands."""
    for path in home.glob("odegrad-*"):
        if left_behind(path.name):
            _end(path)


def _end(path: Path) -> None:
    """Kill what is in a group, until it can be removed."""
    end = time.monotonic() + GONE_SECONDS
    while path.is_dir() and time.monotonic() < end:
        with contextlib.suppress(OSError):
            _write(path / "cgroup.kill", 1)
        try:
            path.rmdir()
        except OSError:  # its processes are still ending
            time.sleep(0.002)


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").split()


def _write(path: Path, value: object) -> None:
    with path.open("r+", encoding="ascii") as file:
        file.write(f"{value}\n")


def _event(path: Path, name: str) -> int:
    """Return how often an event has happened, by its line in a file of events; 0 if there is none."""
    with contextlib.suppress(OSError, ValueError):
        words = _words(path)
        return int(words[words.index(name) + 1])
    return 0
