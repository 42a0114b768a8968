"""Looking a results folder through, and mending it: broken lines, duplicates, a lost ``suite.json``."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from odegrad.errors import ResultsError
from odegrad.records.lines import checksum_fits, parse_line, sealed, whole_lines
from odegrad.records.locks import lock_folder
from odegrad.records.record import Status
from odegrad.records.replacing import replace_file
from odegrad.records.shard import WHOLE, record_files
from odegrad.records.store import SUITE, read_owner


@dataclass(frozen=True)
class FolderFault:
    """One thing that is wrong with a results folder, or not as it would be written now."""

    file: str
    line: int | None
    kind: str
    """``broken``, ``unfinished``, ``duplicate``, ``no checksum``, ``suite``."""
    why: str

    @property
    def harmless(self) -> bool:
        """Return whether results are read in spite of it."""
        return self.kind in {"duplicate", "no checksum"}


@dataclass(frozen=True)
class _Line:
    path: Path
    number: int
    text: bytes
    run_id: str
    status: Status


def examine_folder(folder: Path) -> list[FolderFault]:
    """Return what is wrong with a results folder.

    Raises
    ------
    ResultsError
        If there is no such folder, it holds no records, or some are of a newer odegrad.
    """
    lines, problems, _ = _read(folder)
    kept = {(line.path, line.number) for line in _that_count(lines)}
    for line in lines:
        where = (line.path.name, line.number)
        if (line.path, line.number) not in kept:
            problems.append(FolderFault(*where, "duplicate", f"run {line.run_id} was measured again"))
        elif checksum_fits(line.text) is None:
            problems.append(FolderFault(*where, "no checksum", "written before lines had one"))
    return sorted(problems, key=lambda each: (each.file, each.line or 0))


def repair_folder(folder: Path) -> list[FolderFault]:
    """Mend a results folder and return what was wrong with it.

    Broken lines go into ``broken-TIME.txt`` and out of the records, of a run that was measured again the line that
    counts stays, every line gets a checksum, and ``suite.json`` is written from the records where it is lost.

    Raises
    ------
    ResultsError
        If somebody writes into the folder, its records are of several suites, or it cannot be written.
    """
    lock = lock_folder(folder, WHOLE)
    try:
        problems = examine_folder(folder)
        lines, _, broken = _read(folder)
        kept = _that_count(lines)
        if broken:
            replace_file(folder / f"broken-{time.time_ns()}.txt", b"".join(broken))
        for path in record_files(folder):
            mine = [line for line in kept if line.path == path]
            content = b"".join(
                line.text if checksum_fits(line.text) else sealed(json.loads(line.text)) for line in mine
            )
            if content != path.read_bytes():
                replace_file(path, content)
        suites = {str(json.loads(line.text)["suite"]) for line in kept}
        if read_owner(folder) is None and len(suites) == 1:
            replace_file(folder / SUITE, json.dumps({"suite": suites.pop(), "digest": ""}) + "\n")
        elif read_owner(folder) is None:
            raise ResultsError(
                f"results folder {folder}: expected records of one suite, got some of {sorted(suites)}; write "
                f'{{"suite": NAME}} into {SUITE} by hand'
            )
    except OSError as error:
        raise ResultsError(f"results folder {folder}: cannot be written ({error.strerror}); free it") from error
    finally:
        os.close(lock)
    return problems


def _read(folder: Path) -> tuple[list[_Line], list[FolderFault], list[bytes]]:
    """Return the readable lines of a folder, what is wrong with the others and with its suite, and the others."""
    paths = record_files(folder) if folder.is_dir() else []
    if not paths:
        raise ResultsError(f"results {folder}: expected a folder with records, got none; give one of `odegrad run`")
    lines, problems, broken = [], [], []
    for path in paths:
        for number, text in whole_lines(path):
            try:
                row = parse_line(path, number, text)
            except ResultsError as error:
                if "newer odegrad" in str(error):
                    raise
                why = str(error).removeprefix(f"{path}: line {number} ").partition("; `odegrad")[0]
                problems.append(FolderFault(path.name, number, "broken", why))
                broken.append(text)
            else:
                lines.append(_Line(path, number, text, row["run_id"], Status(row["status"])))
        rest = path.read_bytes().rpartition(b"\n")[2]
        if rest:
            problems.append(FolderFault(path.name, None, "unfinished", f"{len(rest)} bytes without an end of line"))
            broken.append(rest + b"\n")
    if read_owner(folder) is None:
        problems.append(FolderFault(SUITE, None, "suite", "missing or damaged"))
    return lines, problems, broken


def _that_count(lines: list[_Line]) -> list[_Line]:
    """Return the line that counts of every run: the last of a file, an ``ok`` one before others."""
    found: dict[str, _Line] = {}
    for path in dict.fromkeys(line.path for line in lines):
        for line in _last_ones(each for each in lines if each.path == path):
            before = found.get(line.run_id)
            if before is None or before.status is not Status.OK:
                found[line.run_id] = line
    places = {(line.path, line.number) for line in found.values()}
    return [line for line in lines if (line.path, line.number) in places]


def _last_ones(lines: Iterator[_Line]) -> list[_Line]:
    """Return the last line of every run in one file, as resuming reads it."""
    return list({line.run_id: line for line in lines}.values())
