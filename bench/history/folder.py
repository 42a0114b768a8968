"""A history in a folder: one file of JSON lines a commit, rewritten whole or not at all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from odegrad.errors import HistoryError
from odegrad.records.replacing import replace_file

SUFFIX = ".jsonl"
_LOCK = ".lock"
LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class FolderStore:
    """A folder of ``COMMIT.jsonl`` files; other files in it are left alone."""

    path: Path

    @property
    def name(self) -> str:
        """Return what messages call it."""
        return f"history {self.path}"

    @property
    def option(self) -> tuple[str, str]:
        """Return the option that names it on a command line."""
        return ("--history", str(self.path))

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of every file, in the order of names.

        Raises
        ------
        HistoryError
            If there is no such folder, or a file cannot be read.
        """
        if not self.path.is_dir():
            raise HistoryError(
                f"--history {self.path}: expected a folder, got {'a file' if self.path.exists() else 'nothing there'}; "
                f"odegrad history add RESULTS --history {self.path} makes one"
            )
        for file in sorted(self.path.glob(f"*{SUFFIX}")):
            try:
                yield file.name, file.read_bytes()
            except OSError as error:
                raise HistoryError(f"{file}: cannot be read: {error}; free it") from error

    def update(self, commit: str, change: Callable[[bytes], bytes]) -> str:
        """Replace the file of ``commit`` by what ``change`` makes of its content; return where it is.

        Raises
        ------
        HistoryError
            If the folder cannot be written, or another process writes into it for a minute.
        """
        file = self.path / f"{commit}{SUFFIX}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path / _LOCK, timeout=LOCK_SECONDS):
                replace_file(file, change(file.read_bytes() if file.is_file() else b""))
        except Timeout as error:
            raise HistoryError(f"--history {self.path}: another odegrad writes into it; try again") from error
        except OSError as error:
            raise HistoryError(
                f"--history {self.path}: expected a folder that can be written, got {error}; give another one"
            ) from error
        return str(file)
