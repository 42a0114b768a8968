"""One line of a history: what one run measured at one commit on one machine."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from odegrad.errors import HistoryError
from odegrad.gate.baseline import run_name
from odegrad.gate.metrics import CLASS, METRICS, kept
from odegrad.history.commits import Commit
from odegrad.records.columns import COLUMNS, Compared
from odegrad.records.record import PASSES, TUNING, Record, Status
from odegrad.reports.machines import HARDWARE

LINE_SCHEMA = 1
"""Version of a line's form. 1: first."""

FOLLOWED_TIMES = tuple(column.name for column in COLUMNS if column.compared is Compared.TIME)
"""Columns of times that are followed."""

_DIGESTS = {column.name for column in COLUMNS if column.compared is Compared.BITS}

VERSIONS = ("odegrad", "torchdiffeq")
"""Versions that change figures without a change of machine class."""

_KEPT = tuple(dict.fromkeys((*CLASS, *HARDWARE, *VERSIONS)))


@dataclass(frozen=True)
class Line:
    """What one run measured at one commit on one machine."""

    commit: str
    date: str
    order: int | None
    parent: str | None
    suite: str
    run: str
    """Its name in a baseline: all that it is but the fingerprint of a user's file."""
    device: str
    status: str
    machine: Mapping[str, object]
    metrics: Mapping[str, object]
    times: Mapping[str, float]
    """Seconds."""
    release: str | None = None
    """Name of the release that the commit is."""
    taints: str = ""
    """What disturbed the times, with commas."""
    higher_is_better: bool | None = None
    """Of the task's metric."""
    inexact: tuple[str, ...] = field(default=())
    """Metrics that two measurements of this commit did not agree on."""
    schema: int = LINE_SCHEMA

    @property
    def key(self) -> tuple[object, ...]:
        """Return what two lines share of which the later replaces the earlier."""
        return (self.commit, self.suite, self.run, *(str(self.machine.get(name)) for name in (*CLASS, *HARDWARE)))

    def text(self) -> str:
        """Return the line, without its end."""
        return json.dumps(self.__dict__, ensure_ascii=False, separators=(",", ":"))


def line_of(record: Record, commit: Commit, release: str | None) -> Line | None:
    """Return a record's line; None of a trial that chose settings, and where the machine failed."""
    run = record.run
    if run.stage == TUNING or record.status is Status.INFRASTRUCTURE:
        return None
    measured = record.measured
    return Line(
        commit=commit.sha, date=commit.date, order=commit.order, parent=commit.parent, suite=run.suite,
        run=run_name(replace(run, passes=run.passes or ",".join(PASSES))), device=run.device, status=str(record.status),
        machine={name: record.machine.get(name) for name in _KEPT},
        metrics={name: kept(name, measured[name]) for name in METRICS if _there(measured.get(name))},
        times={
            name: float(measured[name])
            for name in FOLLOWED_TIMES
            if _there(measured.get(name)) and measured[name] > 0
        },
        release=release, taints=measured.get("taints") or "",
        higher_is_better=measured.get("metric_higher_is_better"),
    )  # fmt: skip


def parse(text: str, where: str) -> Line:
    """Return the line that ``Line.text`` wrote.

    Raises
    ------
    ValueError
        If it is none.
    HistoryError
        If it is one of a newer odegrad.
    """
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, got {type(data).__name__}")
    schema = data.get("schema")
    if isinstance(schema, int) and schema > LINE_SCHEMA:
        raise HistoryError(
            f"{where} has schema {schema}, this odegrad reads up to {LINE_SCHEMA}; install the newer odegrad that "
            "wrote it"
        )
    try:
        line = Line(**{**data, "inexact": tuple(data.get("inexact", ()))})
        numbers = [value for name, value in line.metrics.items() if name not in _DIGESTS]
        numbers += [*line.times.values(), *(() if line.order is None else (line.order,))]
    except (TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error
    texts = (line.commit, line.date, line.suite, line.run, line.status)
    if not all(isinstance(each, str) for each in texts) or not isinstance(line.machine, dict):
        raise ValueError("expected commit, date, suite, run and status as text, and a machine")
    if not all(each is None or isinstance(each, (str, int, float)) for each in (line.release, *line.machine.values())):
        raise ValueError("expected plain values as release and of the machine")
    if any(isinstance(each, bool) or not isinstance(each, (int, float)) for each in numbers):
        raise ValueError("expected numbers as metrics, times and order")
    if not all(0.0 < each < math.inf for each in line.times.values()):
        raise ValueError("expected times above 0 s")
    return line


def merged(old: Iterable[Line], new: Iterable[Line]) -> tuple[list[Line], int]:
    """Return the lines of both, sorted, where a new one replaces an old one of its key; and how many were replaced.

    What two measurements of one commit by one odegrad do not agree on is ``inexact`` from then on. A release's name
    stays.
    """
    found = {line.key: line for line in old}
    replaced = 0
    for line in new:
        before = found.get(line.key)
        replaced += before is not None
        found[line.key] = line if before is None else _instead(before, line)
    return sorted(found.values(), key=lambda line: tuple(map(str, line.key))), replaced


def _instead(before: Line, line: Line) -> Line:
    same_code = all(before.machine.get(name) == line.machine.get(name) for name in VERSIONS)
    differing = {
        name for name in (*before.metrics, "status")
        if (before.status != line.status if name == "status"
            else name in line.metrics and before.metrics[name] != line.metrics[name])
    }  # fmt: skip
    inexact = {*before.inexact, *differing} if same_code else set()
    return replace(line, release=line.release or before.release, inexact=tuple(sorted(inexact)))


def _there(value: Any) -> bool:
    return value is not None and value == value  # noqa: PLR0124 (NaN)
