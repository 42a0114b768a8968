"""Whether values are what their columns hold: asked before a record is written and where one is read.

A record that a report would refuse is never written: the pass that measured it is an error instead, with the column.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from odegrad.records.columns import COLUMN_OF, COLUMNS, Column

MAX_TEXT = 20_000
"""Characters of a text."""

MAX_LIST = 10_000_000
"""Numbers in a list."""

MAX_DEPTH = 8
"""How deep the machine's description may be nested."""

_INT64 = 2**63
MAX_EXACT = 2.0**53
"""Below it floats hold every whole number."""

TRACE_COLUMNS = tuple(column.name for column in COLUMNS if column.name.startswith("trace_") and column.measured)
"""Columns whose lists belong to each other, entry by entry."""


def fault_of(name: str, value: object) -> str | None:
    """Return what is wrong with ``value`` in the column ``name``; None if nothing is, or the value is None."""
    column = COLUMN_OF[name]
    fault = None if value is None else _FAULTS[column.dtype](column, value)
    return None if fault is None else f"column {name!r}: expected {fault}"


def fault_of_measured(measured: Mapping[str, object]) -> str | None:
    """Return what is wrong with the columns that a run has measured; None if nothing is."""
    for name, value in measured.items():
        fault = fault_of(name, value)
        if fault is not None:
            return fault
    return fault_of_traces(measured)


def fault_of_traces(measured: Mapping[str, Any]) -> str | None:
    """Return which lists of a run's trace do not have the same length; None if they have."""
    lengths = {name: len(measured[name]) for name in TRACE_COLUMNS if measured.get(name) is not None}
    for (one, first), (other, second) in pairwise(lengths.items()):
        if first != second:
            return f"column {other!r}: expected {first} values as in {one!r}, got {second}"
    return None


def fault_of_row(row: Mapping[str, object]) -> str | None:
    """Return what is wrong with a record's row; None if nothing is."""
    for column in COLUMNS:
        fault = fault_of(column.name, row.get(column.name))
        if fault is not None:
            return fault
    return fault_of_traces(row)


def _int64(_column: Column, value: Any) -> str | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, float) and value.is_integer() and abs(value) < MAX_EXACT:
        return None
    return None if whole and -_INT64 <= value < _INT64 else f"a whole number of 64 bits, got {_shown(value)}"


def _float64(_column: Column, value: object) -> str | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return None if number and _fits_a_float(value) else f"a number, got {_shown(value)}"


def _string(_column: Column, value: object) -> str | None:
    if not isinstance(value, str):
        return f"text, got {_shown(value)}"
    if len(value) > MAX_TEXT:
        return f"at most {MAX_TEXT} characters, got {len(value)}"
    return None if _encodable(value) else f"text in Unicode, got half a character in {_shown(value)}"


def _boolean(_column: Column, value: object) -> str | None:
    return None if isinstance(value, bool) else f"true or false, got {_shown(value)}"


def _object(column: Column, value: object) -> str | None:
    if not column.measured:
        plain = isinstance(value, dict) and _is_plain(value, MAX_DEPTH)
        return None if plain else f"an object of plain values, got {_shown(value)}"
    if not isinstance(value, list) or len(value) > MAX_LIST:
        return f"a list of at most {MAX_LIST} numbers, got {_shown(value)}"
    for each in value:
        number = each is None or (isinstance(each, (int, float)) and not isinstance(each, bool))
        if not (number and (each is None or _fits_a_float(each))):
            return f"a list of numbers, got {_shown(each)} in it"
    return None


_FAULTS = {"int64": _int64, "float64": _float64, "string": _string, "boolean": _boolean, "object": _object}


def _fits_a_float(value: Any) -> bool:
    """Return whether a number can be one of 64 bits; NaN and infinity can."""
    try:
        return isinstance(value, float) or math.isfinite(float(value))
    except OverflowError:
        return False


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_plain(value: object, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(
            isinstance(key, str) and _encodable(key) and _is_plain(each, depth - 1) for key, each in value.items()
        )
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(each, depth - 1) for each in value)
    if isinstance(value, str):
        return _encodable(value)
    return value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and _fits_a_float(value))


def _shown(value: object) -> str:
    """Return a value in few characters."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _INT64:
        return f"a whole number of {value.bit_length()} bits"
    text = ascii(value) if isinstance(value, (str, int, float, bool, type(None))) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
