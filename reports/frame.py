"""Records on disk to a dataframe, and to Parquet and back: columns and dtypes follow ``COLUMNS`` of records."""

import contextlib
import gc
import json
import logging
import marshal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from odegrad.errors import ResultsError
from odegrad.records.checking import MAX_EXACT, TRACE_COLUMNS, fault_of_row, fault_of_traces
from odegrad.records.columns import COLUMNS, Column
from odegrad.records.lines import fault_of_line, newer
from odegrad.records.record import SCHEMA_VERSION, Status
from odegrad.records.replacing import replacing
from odegrad.records.shard import RECORDS, record_files
from odegrad.reports.machines import without_times

PANDAS_DTYPES = {"int64": "Int64", "boolean": "boolean", "string": "string", "float64": "float64", "object": "object"}
"""A column's dtype in ``COLUMNS`` -> the pandas dtype, nullable because a failed run lacks what it did not measure."""

_ARROW = {"int64": pa.int64(), "boolean": pa.bool_(), "string": pa.string(), "float64": pa.float64()}
_NUMBERS = {int, float, type(None)}
_TYPES: Mapping[str, set[type]] = {
    "int64": {int, float}, "float64": {int, float}, "boolean": {bool}, "string": {str}, "object": {dict},
    "list": {list},
}  # fmt: skip
_NAMES = tuple(column.name for column in COLUMNS)
_STATUSES = frozenset(str(status) for status in Status)
CHUNK = 4096
"""So many records are Python objects at a time."""

ROW_GROUP = 16_384
"""So many rows of a Parquet file are made at a time."""

TOLD = 5
"""Of the lines of a file that are no records, how many an error tells."""
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pause the search for reference cycles, which JSON has none of: it takes longer than reading many records."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_no_garbage_collection()
def load(*results: Path | str, across_machines: bool = False) -> pd.DataFrame:
    """Return the records of one or several results folders, one row a run, in the order in which the runs ended.

    A run that was measured more than once counts once: its latest ``ok`` record, or its latest one if none is ``ok``;
    files are read in the order of their names, ``records.jsonl`` first. A half-written last line (power cut, full
    disk) is left out and logged. Columns that an older file lacks are NA. Floats that were not measured and measured
    NaN are both NaN.

    Parameters
    ----------
    results
        Folders that ``odegrad run`` wrote.
    across_machines
        Keep the times of records that come from unlike machines (another processor, GPU or number of threads); without
        it they are NA, and a sentence is logged.

    Returns
    -------
    pandas.DataFrame
        Columns ``COLUMNS`` of ``odegrad.records.columns`` with dtypes ``PANDAS_DTYPES``; lists are arrays of float64
        that cannot be written, dictionaries are those of Python and shared by rows that have the same. Trials of a
        suite that tunes are rows too, with the ``stage`` ``tuning``; tables and figures leave them out, as does
        ``frame[frame["stage"].fillna("") != "tuning"]``.

    Raises
    ------
    ResultsError
        If there is no record, a line cannot be read, or the records are of a newer odegrad.
    """
    if not results:
        raise ResultsError("results: expected at least one folder, got none; give one that `odegrad run` wrote")
    gathered = _Gathered()
    for folder in map(Path, results):
        for row in _rows_of_folder(folder):
            gathered.add(row)
    frame = gathered.frame()
    return frame if across_machines else without_times(frame)


class _Gathered:
    """Records as they are read: every ``CHUNK`` of them becomes a compact frame, so that few are Python objects."""

    def __init__(self) -> None:
        self._parts: list[pd.DataFrame] = []
        self._rows: list[tuple[object, ...]] = []
        self._done = 0
        self._latest: dict[str, tuple[int, object]] = {}
        """Run -> place and status of the record that counts, in the order in which they ended."""
        self._wrong: dict[int, str] = {}
        """Place -> what is wrong with a record."""
        self._kept: dict[bytes, dict[str, object]] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        known = self._latest.get(row["run_id"])
        if known is not None and row["status"] != Status.OK and known[1] == Status.OK:
            return
        self._latest.pop(row["run_id"], None)
        self._latest[row["run_id"]] = (self._done + len(self._rows), row["status"])
        self._rows.append(_values(row))
        if len(self._rows) == CHUNK:
            self._pack()

    def _pack(self) -> None:
        """Turn the rows so far into a frame; of a record that is none only the place is kept, it may not count."""
        try:
            _check_types(self._rows)
            part = _frame(self._rows, self._kept)
        except ResultsError as error:
            faults = [fault_of_row(dict(zip(_NAMES, values, strict=True))) for values in self._rows]
            self._wrong |= {self._done + i: fault for i, fault in enumerate(faults) if fault is not None}
            if not any(faults):
                raise
            rows = [(None,) * len(_NAMES) if fault else row for fault, row in zip(faults, self._rows, strict=True)]
            part = _frame(rows, self._kept)
            _log.debug("%s", error)
        self._parts.append(part)
        self._done += len(self._rows)
        self._rows = []

    def frame(self) -> pd.DataFrame:
        """Return the records that count; refuse the first that is none, with the run that is to blame."""
        if self._rows:
            self._pack()
        for run_id, (place, _) in self._latest.items():
            if place in self._wrong:
                raise ResultsError(
                    f"run {run_id}: {self._wrong[place]}; delete its line in the records, and the same command as "
                    "before measures it again"
                )
        every = pd.concat(self._parts, ignore_index=True) if len(self._parts) > 1 else self._parts[0]
        self._parts = []
        places = [place for place, _ in self._latest.values()]
        return every if places == list(range(len(every))) else every.iloc[places].reset_index(drop=True)


def _rows_of_folder(folder: Path) -> Iterator[dict[str, object]]:
    """Yield every record of a folder; refuse one without any."""
    if not folder.is_dir():
        raise ResultsError(
            f"results {folder}: expected a folder that holds {RECORDS}, got "
            f"{'a file' if folder.exists() else 'nothing there'}; `odegrad run SUITE --results {folder}` makes one"
        )
    paths = record_files(folder)
    found = False
    for path in paths:
        for row in _rows(path):
            found = True
            yield row
    if not found:
        raise ResultsError(
            f"results {folder}: expected at least one record in {RECORDS}, got "
            f"{'none' if paths else 'no such file'}; measure some with `odegrad run SUITE --results {folder}`"
        )


def from_rows(rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """Return rows, as ``Record.to_row`` makes them, as a dataframe; absent values are NA, unknown keys are dropped.

    Raises
    ------
    ResultsError
        If a value does not have its column's dtype.
    """
    return _frame([_values(row) for row in rows])


def to_parquet(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame of records as Parquet.

    Lists (traces, raw seconds) become lists of doubles; dictionaries (options, machine) become JSON text, because
    their keys differ from row to row. Units and meanings stand in the fields' metadata.

    Raises
    ------
    ResultsError
        If a list holds something else than numbers.
    """
    fields = [
        pa.field(c.name, _ARROW.get(c.dtype) or _object_type(c), metadata={"unit": c.unit, "meaning": c.meaning})
        for c in COLUMNS
    ]
    schema = pa.schema(fields)
    try:
        first = _flat(frame.iloc[:ROW_GROUP], schema)
        with replacing(path) as part, parquet.ParquetWriter(part, first.schema) as writer:
            writer.write_table(first)
            for start in range(ROW_GROUP, len(frame), ROW_GROUP):
                writer.write_table(_flat(frame.iloc[start : start + ROW_GROUP], schema))
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise ResultsError(
            f"cannot write {path}: expected numbers of 64 bits in lists, and text in Unicode ({error})"
        ) from error


def _flat(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """Return rows as Parquet holds them; what rows share is turned into text once."""
    flat, texts = frame.copy(deep=False), dict[int, str | None]()
    for column in COLUMNS:
        if _is_dictionary(column):
            for value in frame[column.name]:
                if id(value) not in texts:
                    texts[id(value)] = _dump(value)
            flat[column.name] = pd.array([texts[id(value)] for value in frame[column.name]], dtype="string")
    return pa.Table.from_pandas(flat, schema=schema, preserve_index=False)


@_no_garbage_collection()
def read_parquet(path: Path) -> pd.DataFrame:
    """Return the frame that ``to_parquet`` wrote, equal in values and dtypes."""
    frame = pd.read_parquet(path)
    for column in COLUMNS:
        if _is_dictionary(column):
            values = [None if pd.isna(text) else json.loads(text) for text in frame[column.name]]
        elif column.dtype == "object":
            values = _arrays(frame[column.name].tolist()).tolist()
        else:
            continue
        series = np.empty(len(frame), dtype=object)
        series[:] = values
        frame[column.name] = pd.Series(series, index=frame.index, dtype="object")
    return frame


def _rows(path: Path) -> Iterator[dict[str, object]]:
    """Yield the records of a file; at its end refuse it if some lines are none, all of them told at once."""
    wrong: list[str] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.isspace():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                if not line.endswith(b"\n"):
                    _log.warning("%s: left out the half-written last line %d", path, number)
                    break
                wrong.append(f"{number} is not JSON ({_place(error)})")
                continue
            if (damaged := fault_of_line(line)) is not None:
                wrong.append(f"{number} {damaged}")
            elif _is_record(row, path, number):
                ragged = fault_of_traces(row) if isinstance(row.get(TRACE_COLUMNS[0]), list) else None
                if ragged is not None:
                    wrong.append(f"{number} is of a run whose {ragged}")
                    continue
                yield row
            else:
                wrong.append(f"{number} is no object with a run_id and a status of {', '.join(sorted(_STATUSES))}")
    if wrong:
        told = "; ".join(wrong[:TOLD]) + (f"; and {len(wrong) - TOLD} more" if len(wrong) > TOLD else "")
        one = len(wrong) == 1
        raise ResultsError(
            f"{path}: expected a record in every line, but line {told}; `odegrad results repair {path.parent}` takes "
            f"{'it' if one else 'these lines'} out, and what {'it' if one else 'they'} measured is measured again"
        )


def _place(error: ValueError | RecursionError) -> str:
    """Say what is wrong in a line of JSON, and where in it."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)


def _is_record(row: object, path: Path, number: int) -> bool:
    """Return whether a line is a record; refuse one of a newer odegrad."""
    if not isinstance(row, dict):
        return False
    version = row.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise newer(path, number, version)
    status = row.get("status")
    return isinstance(row.get("run_id"), str) and isinstance(status, str) and status in _STATUSES


def _values(row: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(map(row.get, _NAMES))


def _frame(rows: list[tuple[object, ...]], kept: dict[bytes, dict[str, object]] | None = None) -> pd.DataFrame:
    """Return rows as a frame; equal dictionaries are one, also with those that are ``kept`` of others."""
    by_column = zip(*rows, strict=True) if rows else iter([()] * len(COLUMNS))
    shared = {} if kept is None else kept
    frame = pd.DataFrame({c.name: _series(c, list(v), shared) for c, v in zip(COLUMNS, by_column, strict=True)})
    # Runs that did not have it were in the type of the run, as those that say so by an empty text.
    return frame.assign(precision=frame["precision"].fillna(""))


def _series(column: Column, values: list[Any], kept: dict[bytes, dict[str, object]]) -> object:
    absent = values.count(None) == len(values)
    try:
        if column.dtype == "object" and absent:
            return pd.Series(values, dtype="object")
        if _is_dictionary(column):
            same = [None if v is None else kept.setdefault(marshal.dumps(v, 2), v) for v in values]
            return pd.Series(same, dtype="object")
        if column.dtype == "object":
            return _arrays(values)
        if column.dtype == "string" and not absent:
            "".join(value for value in values if value is not None).encode()
        if column.dtype == "int64" and not absent and any(type(v) is float and not abs(v) < MAX_EXACT for v in values):
            raise OverflowError("a float that is no whole number of 64 bits")
        if column.dtype == "float64":
            return pd.Series(np.array(values, dtype=np.float64))
        return pd.Series(values, dtype=PANDAS_DTYPES[column.dtype])
    except (TypeError, ValueError, OverflowError) as error:
        wrong = next((v for v in values if not _fits(column.dtype, v)), None)
        raise ResultsError(
            f"column {column.name!r}: expected {column.dtype} or null in every record, got {wrong!r} ({error}); "
            "delete the lines that hold it"
        ) from error


def _arrays(values: Sequence[Sequence[float | None] | None]) -> pd.Series:
    """Return lists of numbers as arrays of float64, parts of one; None in them is NaN, and None for one stays."""
    lengths = [0 if each is None else len(each) for each in values]
    numbers = np.array([x for each in values if each is not None for x in each], dtype=np.float64)
    numbers.flags.writeable = False
    ends = np.cumsum(lengths).tolist()
    found = np.empty(len(values), dtype=object)
    for i, (each, length, end) in enumerate(zip(values, lengths, ends, strict=True)):
        found[i] = None if each is None else numbers[end - length : end]
    return pd.Series(found, dtype="object")


def _check_types(rows: list[tuple[object, ...]]) -> None:
    """Refuse values that JSON gives and a column does not hold, which pandas would convert or choke on."""
    for column, values in zip(COLUMNS, zip(*rows, strict=True), strict=True):
        kinds = set(map(type, values)) - {type(None)}
        lists = column.dtype == "object" and not _is_dictionary(column)
        if not kinds <= _TYPES["list" if lists else column.dtype]:
            raise ResultsError(f"column {column.name!r}: expected another type in every record")
        if lists and not all(set(map(type, value)) <= _NUMBERS for value in values if value is not None):
            raise ResultsError(f"column {column.name!r}: expected lists of numbers in every record")


def _fits(dtype: str, value: object) -> bool:
    if dtype == "object" and isinstance(value, list):
        return set(map(type, value)) <= _NUMBERS
    kinds: dict[str, Any] = {"int64": int, "boolean": bool, "string": str, "float64": (int, float), "object": ()}
    return value is None or isinstance(value, kinds[dtype])


def _is_dictionary(column: Column) -> bool:
    """Options and machine describe the run and are dictionaries; every measured object is a list of numbers."""
    return column.dtype == "object" and not column.measured


def _object_type(column: Column) -> object:
    return pa.string() if _is_dictionary(column) else pa.list_(pa.float64())


def _dump(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
