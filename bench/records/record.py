"""Runs and records: what crosses a process boundary and what is kept; plain data, no torch.

A *run* is one cell of the grid; its id is a hash of its content. A *record* is what one run measured, with its run
and its machine; ``odegrad.records.columns`` says what its columns are.
"""

import dataclasses
import enum
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from odegrad.records.columns import COLUMNS

SCHEMA_VERSION = 1
"""Version of the record's columns. 1: first."""

PASSES = ("time", "count", "memory", "train", "diagnose")
"""The passes of a run, in their order: times first, taken in turn with the other methods of a comparison."""

EVALUATIONS = 8
"""How many times the metric is evaluated during a training, the start left out, unless a run says otherwise."""

TUNING = "tuning"
"""The stage of a trial that chooses settings."""

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))

Options = tuple[tuple[str, str | int | float | bool], ...]
"""Options as sorted pairs, so that a run is hashable."""


def freeze_options(options: Mapping[str, str | int | float | bool] | None) -> Options:
    """Return ``options`` as sorted pairs."""
    return tuple(sorted((options or {}).items()))


class Status(enum.StrEnum):
    """How a run ended; every value but ``ok`` comes with a message."""

    OK = "ok"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    UNSUPPORTED = "unsupported"
    ERROR = "error"
    INFRASTRUCTURE = "infrastructure"


FAILED = frozenset({Status.DIVERGED, Status.OUT_OF_MEMORY, Status.TIMEOUT, Status.ERROR})
"""Ways a run ends that are its own failure. A refusal (``unsupported``) is a stated limit, and a run that the machine
spoilt (``infrastructure``) is missing: neither is a failure, and exit codes tell them apart."""


def with_options(name: str, options: Options) -> str:
    """Return a name with its options in brackets, by which runs of one name are told apart; the name alone without."""
    return f"{name}[{', '.join(f'{key}={value}' for key, value in options)}]" if options else name


def endings(statuses: Iterable[str]) -> str:
    """Return how runs ended that did not end ``ok``: ``2 failed, 4 refused, 1 missing``; empty if all did."""
    counts = Counter(Status(status) for status in statuses)
    told = {
        "failed": sum(counts[status] for status in FAILED),
        "refused": counts[Status.UNSUPPORTED],
        "missing": counts[Status.INFRASTRUCTURE],
    }
    return ", ".join(f"{number} {word}" for word, number in told.items() if number)


@dataclass(frozen=True)
class Run:
    """One cell of the grid: names and numbers only."""

    suite: str
    task: str
    size: str
    gradient: str
    optimizer: str
    solver: str
    seed: int
    rtol: float
    atol: float
    iterations: int
    device: str = "cpu"
    dtype: str = "float32"
    precision: str = ""
    """The type that the field alone computes in, ``bfloat16`` or ``float16``; empty: that of ``dtype``."""
    method: str = ""
    """The name shown: the gradient method's, or that of a published pair such as ``snopt``."""
    gradient_options: Options = ()
    optimizer_options: Options = ()
    solver_options: Options = ()
    regulariser_options: Options = ()
    """Weights of the penalties that it is trained with, by name, and their options; empty for none."""
    code: str = ""
    """Fingerprint of a user's own method or task file; empty for built-in ones."""
    stage: str = ""
    """``tuning`` for a trial that chooses settings, judged on the validation split; empty for a run that counts."""
    passes: str = ""
    """The passes to measure, separated by commas; empty for all."""
    evaluations: int = EVALUATIONS
    """How many times the metric is evaluated during the training, the start left out."""

    @property
    def told_solver(self) -> dict[str, str | int | float | bool]:
        """Return what the solver is told beside its tolerances: its options, and the field's type where one is set."""
        return dict(self.solver_options) | ({"precision": self.precision} if self.precision else {})

    @property
    def run_id(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 of the run's canonical JSON.

        Fields of ``LATER`` count only where they differ from their default, so that older results keep their ids.
        """
        content = self.to_dict()
        for name, default in LATER.items():
            if content[name] == default:
                del content[name]
        text = _CANONICAL.encode(content)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, object]:
        """Return plain data for JSON; options become dictionaries."""
        out = dict(self.__dict__)
        for key in _OPTION_FIELDS:
            out[key] = dict(out[key])
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Run":
        """Return the run that ``to_dict`` wrote; keys that are no field of a run are ignored."""
        names = {f.name for f in dataclasses.fields(cls)}
        values = {k: v for k, v in data.items() if k in names}
        for key in _OPTION_FIELDS:
            values[key] = freeze_options(values.get(key))
        return cls(**values)


_OPTION_FIELDS = tuple(f.name for f in dataclasses.fields(Run) if f.name.endswith("_options"))

LATER: Mapping[str, object] = {
    name: default
    for name, default in Run("", "", "", "", "", "", 0, 0.0, 0.0, 0).to_dict().items()
    if name in {"stage", "passes", "evaluations", "regulariser_options", "precision"}
}
"""Fields that runs did not have at first, with their defaults."""


@dataclass(frozen=True)
class Record:
    """What one run measured. A value that was not measured is None."""

    run: Run
    status: Status
    message: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict)
    """Column name -> value; names are those of ``COLUMNS``."""
    machine: Mapping[str, object] = field(default_factory=dict)
    """Hardware, versions, commit and settings, from ``odegrad.machine.description``."""

    def to_row(self) -> dict[str, object]:
        """Return the flat row: the run's fields, ``run_id``, every measured column, ``machine`` as a dictionary."""
        row: dict[str, object] = {"schema_version": SCHEMA_VERSION, "run_id": self.run.run_id, **self.run.to_dict()}
        row |= {"status": str(self.status), "message": self.message}
        row |= {c.name: self.measured.get(c.name) for c in COLUMNS if c.measured}
        row["machine"] = dict(self.machine)
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Record":
        """Return the record that ``to_row`` wrote."""
        measured = {c.name: row[c.name] for c in COLUMNS if c.measured and row.get(c.name) is not None}
        return cls(
            run=Run.from_dict(row),
            status=Status(row["status"]),
            message=row.get("message", ""),
            measured=measured,
            machine=row.get("machine", {}),
        )
