"""Who writes into a results folder: the shards of one division beside each other, and nobody else."""

import fcntl
import os
import re
import time
from pathlib import Path

from odegrad.errors import ResultsError
from odegrad.records.shard import Shard

LOCK = ".lock"
"""Held for a moment by whoever comes or looks; by an older odegrad as long as it measures a whole suite."""

_OWN = re.compile(r"\.lock-(\d+)-of-(\d+)")
MOMENT_SECONDS = 5.0


def own_lock(shard: Shard) -> str:
    """Return the name of the file that a runner keeps locked while it measures a shard."""
    return f"{LOCK}-{shard.number}-of-{shard.count}"


def lock_folder(folder: Path, shard: Shard) -> int:
    """Return the descriptor of the lock of a runner of ``shard``; closing it releases the folder.

    Raises
    ------
    ResultsError
        If another runner writes into the folder: the same shard, or one of another division of the suite.
    OSError
        If the folder cannot be written.
    """
    gate = _open(folder / LOCK)
    try:
        _wait(gate, folder)
        for path in sorted(folder.glob(f"{LOCK}-*-of-*")):
            name = _OWN.fullmatch(path.name)
            if name is None or path.name == own_lock(shard) or not _held(path):
                continue
            other = Shard(int(name[1]), int(name[2]))
            if other.count != shard.count:
                raise ResultsError(
                    f"results folder {folder}: shard {other} of the suite is being measured into it, and shard {shard} "
                    "would measure runs of it again; wait for it, divide alike, or give another folder with --results"
                )
        own = _open(folder / own_lock(shard))
        if not _take(own):
            os.close(own)
            raise _busy(folder)
        return own
    finally:
        os.close(gate)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held(path: Path) -> bool:
    descriptor = _open(path)
    try:
        return not _take(descriptor)
    finally:
        os.close(descriptor)


def _wait(gate: int, folder: Path) -> None:
    end = time.monotonic() + MOMENT_SECONDS
    while not _take(gate):
        if time.monotonic() > end:
            raise _busy(folder)
        time.sleep(0.01)


def _busy(folder: Path) -> ResultsError:
    return ResultsError(
        f"results folder {folder}: another runner is writing into it; wait for it, or give another folder with "
        "--results"
    )
