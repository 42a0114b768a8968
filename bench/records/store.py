"""A results folder: one suite's records as JSON lines, appended one by one and safe against a crash.

``suite.json`` says whose folder it is, ``records.jsonl`` holds one line a run in the order they ended, each with a
checksum, and files called ``.lock...`` keep runners apart. A run that is measured again adds a line; the last line of a
run counts. Non-finite numbers are written as ``NaN`` and ``Infinity``, which Python's JSON reads back.
"""

import json
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from odegrad.errors import ResultsError
from odegrad.records.checking import fault_of_row
from odegrad.records.lines import encode, head_of, parse_line, whole_lines
from odegrad.records.locks import lock_folder
from odegrad.records.record import Record, Status
from odegrad.records.replacing import replace_file, sync_folder
from odegrad.records.shard import WHOLE, Shard, record_files

SUITE = "suite.json"

_log = logging.getLogger(__name__)


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
        self._descriptors: list[int] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptors.append(lock_folder(folder, shard))
            self._claim(suite)
            self._records = self._open(self.path.name, os.O_RDWR | os.O_APPEND)
            sync_folder(folder)
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

        Of a record that no report could read only the run and what is wrong with it are kept, as an error.

        Raises
        ------
        ResultsError
            If the disk does not take it.
        """
        size = os.fstat(self._records).st_size
        fault = fault_of_row(record.to_row())
        if fault is not None:
            record = Record(record.run, Status.ERROR, f"its record cannot be kept: {fault}")
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

    def rows(self, run_ids: Collection[str]) -> dict[str, dict[str, object]]:
        """Return the last row of each of these runs by its id; those that are not recorded are left out."""
        return read_rows(self.folder, run_ids)

    def _open(self, name: str, flags: int) -> int:
        descriptor = os.open(self.folder / name, flags | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._descriptors.append(descriptor)
        return descriptor

    def _claim(self, suite: SuiteIdentity) -> None:
        """Refuse another suite's folder; write whose folder it is, also where that is lost or damaged."""
        path = self.folder / SUITE
        owner = read_owner(self.folder)
        if owner is None and record_files(self.folder):
            owner = owner_by_records(self.folder)
            _log.warning("%s: missing or damaged, and written anew: by its records it is of suite %r", path, owner)
        if owner not in {None, suite.name}:
            raise ResultsError(
                f"results folder {self.folder}: expected a folder of suite {suite.name!r}, got one of suite "
                f"{owner!r}; give another one with --results"
            )
        replace_file(path, json.dumps({"suite": suite.name, "digest": suite.digest}) + "\n")

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
        If a line that is not the last one cannot be read, or is of a newer odegrad.
    """
    found: dict[str, Status] = {}
    for path in record_files(folder):
        mine: dict[str, Status] = {}
        for number, line in whole_lines(path):
            head = head_of(path, number, line)
            mine[head.run_id] = head.status
        found |= {run: status for run, status in mine.items() if found.get(run) is not Status.OK}
    return found


def read_rows(folder: Path, run_ids: Collection[str]) -> dict[str, dict[str, object]]:
    """Return the last row of each of these runs by its id; of a run that two files hold an ``ok`` counts.

    Raises
    ------
    ResultsError
        If a line that is not the last one cannot be read, or is of a newer odegrad.
    """
    found: dict[str, dict[str, object]] = {}
    for path in record_files(folder):
        mine: dict[str, dict[str, object]] = {}
        for number, line in whole_lines(path):
            run = head_of(path, number, line).run_id
            if run in run_ids:
                mine[run] = parse_line(path, number, line)
        for run, row in mine.items():
            if run not in found or found[run]["status"] != Status.OK:
                found[run] = row
    return found


def read_owner(folder: Path) -> str | None:
    """Return the suite that ``suite.json`` says the folder is of; None if there is none, or it is damaged."""
    try:
        return str(json.loads((folder / SUITE).read_text(encoding="utf-8"))["suite"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def owner_by_records(folder: Path) -> str | None:
    """Return the suite of a folder's records; None if there are none.

    Raises
    ------
    ResultsError
        If they are of several suites.
    """
    suites = {
        str(parse_line(path, number, line).get("suite"))
        for path in record_files(folder)
        for number, line in whole_lines(path)
    }
    if len(suites) > 1:
        raise ResultsError(
            f"results folder {folder}: expected records of one suite, got some of {', '.join(sorted(suites))}; give "
            "another folder with --results"
        )
    return next(iter(suites), None)


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
