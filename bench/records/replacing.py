"""Files that are replaced: written beside, synced and renamed; a reader sees the old or the new one, whole."""

import contextlib
import glob
import os
import time
from collections.abc import Iterator
from pathlib import Path

from odegrad.records.temporary import left_behind, own_prefix

STALE_SECONDS = 3600.0
"""After so long what a writer on another host has left beside a file goes when the file is written again."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a file beside ``path`` to write; at the end of the block it takes the place of ``path``.

    If the block raises, or the disk does not take the file, ``path`` stays as it was and nothing is left beside it.

    Raises
    ------
    OSError
        If the file cannot be synced or renamed.
    """
    target = path.resolve() if path.is_symlink() else path
    part = target.with_name(f".{own_prefix(os.getpid())}{target.name}")
    _clean(target)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def replace_file(path: Path, content: bytes | str) -> None:
    """Replace ``path`` by a file of this content, text as UTF-8; raises what ``replacing`` raises."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where its file system can tell."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clean(target: Path) -> None:
    """Remove what killed writers of the same file have left: at once on this host, elsewhere after a while."""
    for old in target.parent.glob(f".odegrad-*-{glob.escape(target.name)}"):
        with contextlib.suppress(OSError):
            if left_behind(old.name[1:]) or time.time() - old.stat().st_mtime > STALE_SECONDS:
                old.unlink()
