"""Files of data sets: fetched once, checked by their hash, kept in one folder; two processes never write one file."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pooch
from filelock import FileLock

from odegrad.errors import DataError

FOLDER_VARIABLE = "ODEGRAD_DATA"
OFFLINE_HINT = "odegrad list tasks says which tasks work offline"
"""What every error about missing data ends with."""


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
                    pooch.retrieve(self.url, self.known_hash, fname=self.name, path=folder, progressbar=False)
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


def data_folder() -> Path:
    """Return the folder of downloaded data: ``ODEGRAD_DATA``, or ``odegrad`` in the user's cache folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else Path(pooch.os_cache("odegrad"))


def keep_aside(path: Path) -> None:
    """Rename a damaged file to ``NAME.damaged-TIME``, so that its place is free and nothing is lost."""
    path.rename(path.with_name(f"{path.name}.damaged-{time.time_ns()}"))
