"""A results folder: one suite's records as JSON lines, appended one by one and safe against a crash.

``suite.json`` says whose folder it is, ``records.jsonl`` holds one line a run in the order they ended, and ``.lock``
keeps two runners apart. A run that is measured again adds a line; the last line of a run counts. Non-finite numbers
are written as ``NaN`` and ``Infinity``, which Python's JSON reads back.
"""

import fcntl
import json
import logging
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from odegrad.errors import ResultsError
from odegrad.records.record import Record, Status
from odegrad.records.shard import WHOLE, Shard, record_files

SUITE, LOCK = "suite.json", ".lock"

LEADING = ("run_id", "status")
"""Columns that stand first in a line, so that resuming need not read the rest of it."""

_HEAD = re.compile(rb'\{"run_id": "([0-9a-f]+)", "status": "([a-z_]+)", .*\}\n', re.DOTALL)

_STATUSES = {str(status).encode(): status for status in Status}

_log = logging.getLogger(__name__)


def encode(record: Record) -> bytes:
    """Return the record's line."""
    row = record.to_row()
    ordered = {name: row[name] for name in LEADING} | row
    return json.dumps(ordered).encode() + b"\n"


@dataclass(frozen=True)
class SuiteIdentity:
    """Whose folder it is."""

    name: str
    digest: str
    """Hash of the suite's content; a changed suite of the same name may go on in its folder."""


class Store:
    """A results folder opened for writing; a context manager that holds the folder's lock.

    Parameters
    ----------
    folder
        Made if it does not exist.
    suite
        The suite that is about to run.
    shard
        Which part of it: each writes a file of its own, with a lock of its own.

    Raises
    ------
    ResultsError
        If the folder cannot be written, belongs to another suite, or another runner is writing into it.
    """

    def __init__(self, folder: Path, suite: SuiteIdentity, shard: Shard = WHOLE) -> None:
        self.folder = folder
        self.path = folder / shard.name("records", ".jsonl")
        self._lock_name = shard.name(LOCK, "")
        self._descriptors: list[int] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            self._claim(suite)
            self._records = self._open(self.path.name, os.O_RDWR | os.O_APPEND)
            self._recover()
        except OSError as error:
            self.close()
            raise ResultsError(
                f"results folder {folder}: expected a folder that can be written, got {type(error).__name__} "
                f"({error.strerror}); give another one with --results"
            ) from error
        except ResultsError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def append(self, record: Record) -> None:
        """Write ``record`` and wait until it is on the disk; a line is written whole or not at all.

        Raises
        ------
        ResultsError
            If the disk does not take it.
        """
        size = os.fstat(self._records).st_size
        line = encode(record)
        try:
            written = 0
            while written < len(line):
                written += os.write(self._records, line[written:])
            os.fsync(self._records)
        except BaseException as error:
            os.ftruncate(self._records, size)
            if isinstance(error, OSError):
                raise ResultsError(
                    f"results folder {self.folder}: record {record.run.run_id} could not be written "
                    f"({error.strerror}); make room and run the same command again"
                ) from error
            raise

    def statuses(self) -> dict[str, Status]:
        """Return the last status of every recorded run by its id."""
        return read_statuses(self.folder)

    def rows(self, run_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return the last row of each of these runs by its id; those that are not recorded are left out."""
        return read_rows(self.folder, run_ids)

    def _open(self, name: str, flags: int) -> int:
        descriptor = os.open(self.folder / name, flags | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._descriptors.append(descriptor)
        return descriptor

    def _lock(self) -> None:
        lock = self._open(self._lock_name, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResultsError(
                f"results folder {self.folder}: another runner is writing into it; wait for it, or give another "
                "folder with --results"
            ) from error

    def _claim(self, suite: SuiteIdentity) -> None:
        """Refuse another suite's folder; write whose folder it is."""
        path = self.folder / SUITE
        if path.is_file():
            owner = _read_owner(path)
            if owner != suite.name:
                raise ResultsError(
                    f"results folder {self.folder}: expected a folder of suite {suite.name!r}, got one of suite "
                    f"{owner!r}; give another one with --results"
                )
        elif held := record_files(self.folder):
            raise ResultsError(
                f"results folder {self.folder}: it holds {held[0].name} but no {SUITE}, so its suite is unknown; "
                "give another one with --results"
            )
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps({"suite": suite.name, "digest": suite.digest}) + "\n", encoding="utf-8")
        part.replace(path)

    def _recover(self) -> None:
        """Cut off a last line that a crash left unfinished."""
        whole, size = _end_of_last_line(self._records), os.fstat(self._records).st_size
        if whole < size:
            _log.warning("%s: dropped an unfinished last line of %d bytes", self.path, size - whole)
            os.ftruncate(self._records, whole)
            os.fsync(self._records)


def read_statuses(folder: Path) -> dict[str, Status]:
    """Return the last status of every run in ``folder`` by its id; empty if there are no records.

    Of a run that two files hold an ``ok`` counts.

    Raises
    ------
    ResultsError
        If a line that is not the last one cannot be read.
    """
    found: dict[str, Status] = {}
    for path in record_files(folder):
        mine: dict[str, Status] = {}
        for number, line in _lines(path):
            head = _HEAD.fullmatch(line)
            if head is not None and head[2] in _STATUSES:
                mine[head[1].decode()] = _STATUSES[head[2]]
            else:
                row = _parse(path, number, line)
                mine[row["run_id"]] = Status(row["status"])
        found |= {run: status for run, status in mine.items() if found.get(run) is not Status.OK}
    return found


def read_rows(folder: Path, run_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the last row of each of these runs by its id; of a run that two files hold an ``ok`` counts.

    Raises
    ------
    ResultsError
        If a line that is not the last one cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in record_files(folder):
        mine: dict[str, dict[str, Any]] = {}
        for number, line in _lines(path):
            head = _HEAD.fullmatch(line)
            if head is not None and head[1].decode() not in run_ids:
                continue
            row = _parse(path, number, line)
            if row["run_id"] in run_ids:
                mine[row["run_id"]] = row
        for run, row in mine.items():
            if run not in found or found[run]["status"] != Status.OK:
                found[run] = row
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines of ``path`` with their numbers; an unfinished last one is left out."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n"):
                yield number, line


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
        Status(row["status"]), str(row["run_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(
            f"{path}: line {number} is no record ({error}); mend or delete that line, its run will be measured again"
        ) from error
    return row


def _read_owner(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["suite"])
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(
            f"{path}: expected a JSON object with the key 'suite' ({error}); give another folder with --results"
        ) from error


def _end_of_last_line(descriptor: int, block: int = 2**16) -> int:
    """Return the number of bytes up to and including the last newline."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - block)
        place = os.pread(descriptor, end - start, start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
        end = start
    return 0
