"""Records on disk to a dataframe, and to Parquet and back: columns and dtypes follow ``COLUMNS`` of records."""

import contextlib
import gc
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
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
_STATUS = _NAMES.index("status")
_STATUSES = frozenset(str(status) for status in Status)
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
        Columns ``COLUMNS`` of ``odegrad.records.columns`` with dtypes ``PANDAS_DTYPES``; lists and dictionaries are
        Python objects. Trials of a suite that tunes are rows too, with the ``stage`` ``tuning``; tables and figures
        leave them out, as does ``frame[frame["stage"].fillna("") != "tuning"]``.

    Raises
    ------
    ResultsError
        If there is no record, a line cannot be read, or the records are of a newer odegrad.
    """
    if not results:
        raise ResultsError("results: expected at least one folder, got none; give one that `odegrad run` wrote")
    latest: dict[str, tuple[object, ...]] = {}
    for folder in map(Path, results):
        for row in _rows_of_folder(folder):
            _keep_latest(latest, row)
    try:
        _check_types(list(latest.values()))
        frame = _frame(list(latest.values()))
    except ResultsError as error:
        raise _named(latest, error) from error
    return frame if across_machines else without_times(frame)


def _named(latest: Mapping[str, tuple[object, ...]], error: ResultsError) -> ResultsError:
    """Return the error with the run whose record is to blame."""
    for run_id, values in latest.items():
        fault = fault_of_row(dict(zip(_NAMES, values, strict=True)))
        if fault is not None:
            return ResultsError(
                f"run {run_id}: {fault}; delete its line in the records, and the same command as before measures it "
                "again"
            )
    return error


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
    flat = frame.copy(deep=False)
    for column in COLUMNS:
        if _is_dictionary(column):
            flat[column.name] = pd.array([_dump(v) for v in frame[column.name]], dtype="string")
    fields = [
        pa.field(c.name, _ARROW.get(c.dtype) or _object_type(c), metadata={"unit": c.unit, "meaning": c.meaning})
        for c in COLUMNS
    ]
    try:
        table = pa.Table.from_pandas(flat, schema=pa.schema(fields), preserve_index=False)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise ResultsError(
            f"cannot write {path}: expected numbers of 64 bits in lists, and text in Unicode ({error})"
        ) from error
    with replacing(path) as part:
        parquet.write_table(table, part)


@_no_garbage_collection()
def read_parquet(path: Path) -> pd.DataFrame:
    """Return the frame that ``to_parquet`` wrote, equal in values and dtypes."""
    frame = pd.read_parquet(path)
    for column in COLUMNS:
        if _is_dictionary(column):
            values = [None if pd.isna(text) else json.loads(text) for text in frame[column.name]]
        elif column.dtype == "object":
            values = [None if v is None else np.asarray(v, dtype=float).tolist() for v in frame[column.name]]
        else:
            continue
        frame[column.name] = pd.Series(values, index=frame.index, dtype="object")
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


def _keep_latest(latest: dict[str, tuple[object, ...]], row: dict[str, Any]) -> None:
    known = latest.get(row["run_id"])
    if known is None or row["status"] == Status.OK or known[_STATUS] != Status.OK:
        latest.pop(row["run_id"], None)
        latest[row["run_id"]] = _values(row)


def _values(row: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(map(row.get, _NAMES))


def _frame(rows: list[tuple[object, ...]]) -> pd.DataFrame:
    by_column = zip(*rows, strict=True) if rows else iter([()] * len(COLUMNS))
    frame = pd.DataFrame({c.name: _series(c, list(v)) for c, v in zip(COLUMNS, by_column, strict=True)})
    # Runs that did not have it were in the type of the run, as those that say so by an empty text.
    return frame.assign(precision=frame["precision"].fillna(""))


def _series(column: Column, values: list[Any]) -> object:
    try:
        if column.dtype == "object":
            return pd.Series(values, dtype="object")
        if column.dtype == "string":
            "".join(value for value in values if value is not None).encode()
        if column.dtype == "int64" and any(type(v) is float and not abs(v) < MAX_EXACT for v in values):
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
    kinds: dict[str, Any] = {"int64": int, "boolean": bool, "string": str, "float64": (int, float)}
    return value is None or isinstance(value, kinds[dtype])


def _is_dictionary(column: Column) -> bool:
    """Options and machine describe the run and are dictionaries; every measured object is a list of numbers."""
    return column.dtype == "object" and not column.measured


def _object_type(column: Column) -> object:
    return pa.string() if _is_dictionary(column) else pa.list_(pa.float64())


def _dump(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
