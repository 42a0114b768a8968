"""Names as a reader sees them: the order of methods, short names of users' files, what tells two runs apart."""

import json
import re
from collections.abc import Iterable

import pandas as pd

from odegrad.catalogue import METHODS, TASKS

METHOD_ORDER = tuple(method.name for method in METHODS)
"""The order of methods in every table and figure; others follow by name."""

OF_USERS = "tasks of users"
"""The kind of task that stands in no catalogue."""
_KIND_OF = {task.name: task.family for task in TASKS}

SETTINGS = (
    "suite",
    "size",
    "gradient",
    "gradient_options",
    "optimizer",
    "optimizer_options",
    "solver",
    "solver_options",
    "regulariser_options",
    "rtol",
    "atol",
    "iterations",
    "device",
    "dtype",
    "precision",
    "code",
)
"""Columns that, beside task and method, make two runs unlike; only the seed may differ within one row of a table."""

OF_TASK = frozenset({"size", "iterations"})
"""Settings that make runs of unlike methods incomparable too: named where they vary within a task."""

_NAMED = frozenset({"rtol", "atol", "iterations", "code"})
"""Settings whose bare value does not say what it is."""


def sort_key(method: str, variant: str = "") -> tuple[object, ...]:
    """Return a key that sorts methods: known ones in ``METHOD_ORDER``, others by name; variants by number."""
    place = METHOD_ORDER.index(method) if method in METHOD_ORDER else len(METHOD_ORDER)
    return (place, method, natural(variant))


def kind_of(task: str) -> str:
    """Return what kind of task ``task`` is: its family in the catalogue, or ``OF_USERS``."""
    return _KIND_OF.get(task, OF_USERS)


def natural(text: str) -> tuple[object, ...]:
    """Return a key that sorts text with the numbers in it by their size: ``rtol 1e-05`` before ``rtol 0.001``."""
    parts = re.split(r"(?<![\w.])(\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?![\w.])", text)
    return tuple((float(part), "") if place % 2 else (0.0, part) for place, part in enumerate(parts))


def short(method: str) -> str:
    """Return a method's name without the folders of a user's file: ``my_method.py:MyMethod``."""
    return method.replace("\\", "/").rpartition("/")[2] or method if ".py:" in method else method


def joined(names: Iterable[str]) -> str:
    """Return names as an English list: ``a, b and c``."""
    *first, last = list(names) or [""]
    return f"{', '.join(first)} and {last}" if first else last


def methods(frame: pd.DataFrame) -> pd.Series:
    """Return each run's method; where the name shown is empty, its gradient method."""
    shown = frame["method"].fillna("")
    return shown.where(shown != "", frame["gradient"].fillna("")).astype("string")


def variants(frame: pd.DataFrame) -> pd.Series:
    """Return for each run what tells it from others of its task and method, besides the seed; mostly empty.

    A setting is named only if it varies within a task and method: a sweep over ``rtol`` gives ``rtol 0.001``. Those of
    ``OF_TASK`` are named for every method of a task on which they vary.
    """
    tasks = frame["task"].fillna("").astype(str)
    of_task, of_method = (pd.factorize(each)[0] for each in (tasks, tasks + "\0" + methods(frame).astype(str)))
    parts = []
    for setting in SETTINGS:
        values = _texts(frame[setting])
        group = of_task if setting in OF_TASK else of_method
        varies = pd.Series(pd.factorize(values)[0], index=frame.index).groupby(group).transform("nunique") > 1
        if varies.any():
            named = f"{setting} " + values if setting in _NAMED else values
            parts.append(named.where(varies & (values != ""), ""))
    texts = [", ".join(word for word in row if word) for row in zip(*parts, strict=True)] if parts else ""
    return pd.Series(texts, index=frame.index, dtype="string")


def _texts(values: pd.Series) -> pd.Series:
    """Return each value as text; where values are hashable, each distinct one is written once."""
    if values.dtype == object:
        return values.map(_plain)
    numbers, distinct = pd.factorize(values, use_na_sentinel=False)
    texts = [_plain(value) for value in distinct.tolist()]
    return pd.Series([texts[i] for i in numbers], index=values.index, dtype="object")


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in sorted(value.items()))
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None or value is pd.NA else str(value)
