"""Files of data sets: fetched once, checked by their hash, kept in one folder; two processes never write one file."""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pooch
import rich.progress
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

from odegrad.errors import DataError

FOLDER_VARIABLE = "ODEGRAD_DATA"
OFFLINE_HINT = "odegrad list tasks says which tasks work offline"
"""What every error about missing data ends with."""


_log = logging.getLogger("odegrad")


@dataclass(frozen=True)
class DataFile:
    """A file on the network."""

    name: str
    """What it is called in the data folder."""
    url: str
    known_hash: str
    """``md5:...`` or ``sha256:...``, as its publisher states it."""
    megabytes: float

    def fetch(self) -> Path:
        """Return the file's path, after fetching it if it is not there.

        A file that is there with another hash is kept aside as ``NAME.damaged-TIME`` and fetched again.

        Raises
        ------
        DataError
            If it cannot be fetched, or what came has another hash.
        """
        folder = data_folder()
        path = folder / self.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{self.name}.lock"):
                if path.exists() and not self._intact(path):
                    keep_aside(path)
                if not path.exists():
                    with FetchProgress(self.name, self.megabytes) as shown:
                        to = pooch.HTTPDownloader(progressbar=shown)
                        pooch.retrieve(self.url, self.known_hash, fname=self.name, path=folder, downloader=to)
        except ValueError as error:
            raise DataError(
                f"{self.name}: what came from {self.url} has another hash than {self.known_hash}: the download was cut "
                f"short, or the file has been changed there; try again, or place the right file at {path}"
            ) from error
        except OSError as error:
            raise DataError(
                f"{self.name}: not in {folder} and not fetched from {self.url} ({type(error).__name__}); place the "
                f"file ({self.megabytes:.0f} MB, {self.known_hash}) at {path}, or set {FOLDER_VARIABLE} to the folder "
                f"that holds it; {OFFLINE_HINT}"
            ) from error
        return path

    def _intact(self, path: Path) -> bool:
        algorithm, _, wanted = self.known_hash.partition(":")
        return bool(pooch.file_hash(str(path), alg=algorithm) == wanted)


class FetchProgress:
    """How far a download is: a bar on a terminal, elsewhere a line of the logger ``odegrad`` every tenth.

    ``total``, ``update``, ``reset`` and ``close`` are what pooch calls.
    """

    def __init__(self, name: str, megabytes: float) -> None:
        self.total = round(megabytes * 1e6)
        self._name, self._done, self._told = name, 0, 0
        console = Console(stderr=True)
        columns = (TextColumn("fetching {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._bar = rich.progress.Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(name, total=self.total)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def update(self, count: int) -> None:
        """Add ``count`` bytes."""
        self._done += count
        self._bar.update(self._task, completed=self._done, total=self.total)
        tenth = 10 * self._done // max(self.total, 1)
        if self._bar.disable and tenth > self._told:
            self._told = tenth
            _log.info("fetching %s: %d of %d kB", self._name, self._done // 1000, self.total // 1000)

    def reset(self) -> None:
        """Start anew: pooch does so at the end, before it tells the whole size."""
        self._done = 0

    def close(self) -> None:
        """Do nothing: the end of the context does."""


def data_folder() -> Path:
    """Return the folder of downloaded data: ``ODEGRAD_DATA``, or ``odegrad`` in the user's cache folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else Path(pooch.os_cache("odegrad"))


def keep_aside(path: Path) -> None:
    """Rename a damaged file to ``NAME.damaged-TIME``, so that its place is free and nothing is lost."""
    path.rename(path.with_name(f"{path.name}.damaged-{time.time_ns()}"))
