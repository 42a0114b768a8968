"""Lines of a records file: a record as JSON with a checksum at its end; lines of before have none, and are read too."""

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odegrad.errors import ResultsError
from odegrad.records.checking import fault_of_row
from odegrad.records.columns import COLUMN_OF
from odegrad.records.record import SCHEMA_VERSION, Record, Status

LEADING = ("run_id", "status")
"""Columns that stand first in a line, so that resuming need not read the rest of it."""

_HEAD = re.compile(
    rb'\{"run_id": "([0-9a-f]+)", "status": "([a-z_]+)", (?:"schema_version": (\d+), )?.*\}\n', re.DOTALL
)

_CHECK = b', "crc32": "'
_CHECKED = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\n\Z')
_LAST = re.compile(rb'"([^"]{5})": "[^"]{8}"\}\n\Z')
_TAIL = len(_CHECK) + 8 + len(b'"}\n')

_STATUSES = {str(status).encode(): status for status in Status}


@dataclass(frozen=True)
class Head:
    """What resuming needs of a line."""

    run_id: str
    status: Status


def encode(record: Record) -> bytes:
    """Return the record's line, with its checksum."""
    row = record.to_row()
    return sealed({name: row[name] for name in LEADING} | row)


def sealed(row: dict[str, object]) -> bytes:
    """Return a row as a line with the CRC-32 of all that stands before it."""
    body = json.dumps({name: value for name, value in row.items() if name != "crc32"}).encode()
    return body[:-1] + _CHECK + f"{zlib.crc32(body[:-1]):08x}".encode() + b'"}\n'


def checksum_fits(line: bytes) -> bool | None:
    """Return whether a line is as it was written; None if it has no checksum."""
    found = _CHECKED.search(line, max(0, len(line) - _TAIL))
    return None if found is None else zlib.crc32(line[: found.start()]) == int(found[1], 16)


def whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines of ``path`` with their numbers; an unfinished last one is left out."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n"):
                yield number, line


def head_of(path: Path, number: int, line: bytes) -> Head:
    """Return run and status of a line; one without a checksum is read in full, so that a report takes it too.

    Raises
    ------
    ResultsError
        If it is no record, not as it was written, or of a newer odegrad.
    """
    head = _HEAD.fullmatch(line)
    if head is not None and head[2] in _STATUSES and checksum_fits(line):
        if head[3] is not None and int(head[3]) > SCHEMA_VERSION:
            raise newer(path, number, int(head[3]))
        return Head(head[1].decode(), _STATUSES[head[2]])
    row = parse_line(path, number, line)
    return Head(row["run_id"], Status(row["status"]))


def parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """Return the row of a line.

    Raises
    ------
    ResultsError
        If it is no record, not as it was written, or of a newer odegrad.
    """
    try:
        row, fault = json.loads(line), fault_of_line(line)
    except (ValueError, RecursionError) as error:
        row, fault = None, f"is not JSON ({type(error).__name__}: {error})"
    if isinstance(row, dict) and isinstance(row.get("schema_version"), int) and row["schema_version"] > SCHEMA_VERSION:
        raise newer(path, number, row["schema_version"])
    if fault is None:
        fault = fault_of_record(row)
    if fault is not None:
        raise ResultsError(
            f"{path}: line {number} {fault}; `odegrad results repair {path.parent}` takes it out, and its run is "
            "measured again"
        )
    found: dict[str, Any] = row
    return found


def fault_of_line(line: bytes) -> str | None:
    """Return that a line is not as it was written, if it has a checksum that says so, or a damaged one."""
    fits = checksum_fits(line)
    last = _LAST.search(line, max(0, len(line) - 2 * _TAIL)) if fits is None else None
    damaged = last is not None and last[1].decode(errors="replace") not in COLUMN_OF
    return "is not as it was written: its checksum differs" if fits is False or damaged else None


def fault_of_record(row: object) -> str | None:
    """Return why what a line holds is no record; None if it is one."""
    if not isinstance(row, dict) or not isinstance(row.get("run_id"), str) or row.get("status") not in tuple(Status):
        return "is no record: it has no run_id and no known status"
    fault = fault_of_row(row)
    return None if fault is None else f"is no record: {fault}"


def newer(path: Path, number: int, version: int) -> ResultsError:
    """Return the error of a line that a newer odegrad has written."""
    return ResultsError(
        f"{path}: line {number} has schema version {version}, this odegrad reads up to {SCHEMA_VERSION}; "
        "install the newer odegrad that wrote it"
    )
