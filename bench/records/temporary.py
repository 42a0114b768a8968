"""Temporary files and folders that say whose they are: those of a killed command are found at the next start.

Their names hold host, process and the time of its start, so that a living command's are never taken for left ones.
"""

import contextlib
import os
import platform
import re
import shutil
import tempfile
import zlib
from functools import cache
from pathlib import Path

import psutil

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
"""Short, because the address of a socket, which lies in such a folder, holds 107 characters."""
_NAME = re.compile(rf"odegrad-{_HOST}-(\d+)-(\d+)-")
_START_FIELD = 19
"""Of ``/proc/PID/stat`` behind the command's name: the start, in ticks since the system's."""


@cache
def own_prefix(pid: int) -> str:
    """Return what the names of the temporary files of process ``pid`` begin with."""
    return f"odegrad-{_HOST}-{pid}-{_started(pid)}-"


def left_behind(name: str) -> bool:
    """Return whether a file of this name belongs to a process of this host that is gone."""
    found = _NAME.match(name)
    return found is not None and _started(int(found[1])) != int(found[2])


def temporary_folder(parent: str | None = None) -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder of this process, inside of ``parent`` or of the system's; it goes at its end.

    Inside of the system's, what killed commands have left there goes before.
    """
    if parent is None:
        clean_up()
    return tempfile.TemporaryDirectory(prefix=own_prefix(os.getpid()), dir=parent, ignore_cleanup_errors=True)


@cache
def clean_up(folder: str | None = None) -> int:
    """Remove what killed commands of this host have left in the temporary folder; return how many. Once a process."""
    removed = 0
    for path in Path(folder or tempfile.gettempdir()).glob("odegrad-*"):
        if not left_behind(path.name):
            continue
        with contextlib.suppress(OSError):  # another user's, or another command has removed it
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            removed += 1
    return removed


def _started(pid: int) -> int | None:
    """Return when a process started, in a unit that no adjustment of the clock changes; None if there is none."""
    stat = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[_START_FIELD])
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).create_time())
    return None
