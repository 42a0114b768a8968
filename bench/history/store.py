"""Adding results to a history and reading it: a folder or a branch of files of lines."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from odegrad.errors import HistoryError
from odegrad.history.branch import BranchStore
from odegrad.history.commits import Commit
from odegrad.history.folder import FolderStore
from odegrad.history.line import Line, line_of, merged, parse
from odegrad.records.record import Record
from odegrad.reports.frame import load

HistoryStore = FolderStore | BranchStore
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Added:
    """What was added to a history."""

    where: str
    commit: Commit
    added: int
    """Lines that are new."""
    replaced: int
    """Lines that took the place of an earlier one of the same commit, suite, run and machine."""

    def sentence(self) -> str:
        """Return what was done."""
        return f"{self.where}: {self.added} runs of commit {self.commit.sha[:12]} added, {self.replaced} replaced"


def add(results: Path, store: HistoryStore, commit: Commit, release: str | None = None) -> Added:
    """Add what a results folder holds to a history, as results of ``commit``.

    Raises
    ------
    ResultsError
        If the results cannot be read, or are none.
    HistoryError
        If none of them can be kept, or the history cannot be written.
    """
    records = [Record.from_row(_plain_row(row)) for row in load(results, across_machines=True).to_dict("records")]
    lines = [line for record in records if (line := line_of(record, commit, release)) is not None]
    if not lines:
        raise HistoryError(
            f"results {results}: expected runs that were measured, got only trials of a tuning and runs that failed "
            "because of the machine; run the suite again"
        )
    counts: dict[str, int] = {}

    def change(old: bytes) -> bytes:
        known = lines_of(old, f"{store.name}, {commit.sha[:12]}")
        every, counts["replaced"] = merged(known, lines)
        return "".join(f"{line.text()}\n" for line in every).encode()

    where = store.update(commit.sha, change)
    new = len({line.key for line in lines})
    return Added(where, commit, new - counts["replaced"], counts["replaced"])


def read(store: HistoryStore) -> list[Line]:
    """Return every line of a history.

    Raises
    ------
    HistoryError
        If there is no history, or nothing in it.
    """
    lines = [line for name, content in store.files() for line in lines_of(content, f"{store.name}, {name}")]
    if not lines:
        option = " ".join(store.option)
        raise HistoryError(
            f"{store.name}: expected results, got none; add some with odegrad history add RESULTS {option}"
        )
    return lines


def lines_of(content: bytes, where: str) -> list[Line]:
    """Return the lines of a file; a broken one is left out, and said.

    Raises
    ------
    HistoryError
        If a line is one of a newer odegrad.
    """
    return list(_whole_lines(content.splitlines(), where))


def _whole_lines(texts: Iterable[bytes], where: str) -> Iterable[Line]:
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            yield parse(text.decode(), f"{where}, line {number}")
        except ValueError as error:
            if isinstance(error, HistoryError):
                raise
            _log.warning(
                "%s: left out line %d, which is broken (%s); adding that commit's results again replaces it",
                where, number, error,
            )  # fmt: skip


def _plain_row(row: dict[str, object]) -> dict[str, object]:
    """Return a row of a frame as a record wrote it: without what pandas makes of absent values."""
    plain = {str(name): value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()}
    return {name: value for name, value in plain.items() if isinstance(value, (dict, list)) or not pd.isna(value)}
