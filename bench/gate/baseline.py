"""A gate's baseline: reviewable JSON, one line a run, sorted, with the reasons of every update."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odegrad.errors import BaselineError
from odegrad.gate.metrics import METRICS, kept, machine_class
from odegrad.records.columns import Compared
from odegrad.records.record import Record, Run, with_options
from odegrad.records.replacing import replace_file

BASELINE_SCHEMA = 1
"""Version of the baseline's form. 1: first."""

INEXACT = "inexact"
"""Key of a run's metrics that two measurements of the same code did not agree on."""

BaselineEntry = Mapping[str, Any]
"""What is kept of one run: its status, its metrics, and what was not exact."""


@dataclass(frozen=True)
class Reason:
    """Why a baseline was written: the date, the commit of the checkout around it, and a sentence."""

    date: str
    commit: str | None
    reason: str


@dataclass(frozen=True)
class Baseline:
    """What a suite's runs measured when the baseline was accepted."""

    suite: str
    machine: Mapping[str, object]
    """The machine class, from ``machine_class``."""
    runs: Mapping[str, BaselineEntry]
    """Name of a run -> what is kept of it."""
    bands: Mapping[str, float] = field(default_factory=dict)
    """How far a metric may move where equal values cannot be asked for."""
    reasons: tuple[Reason, ...] = ()

    def text(self) -> str:
        """Return the file's text."""
        head: dict[str, object] = {"schema": BASELINE_SCHEMA, "suite": self.suite, "machine": dict(self.machine)}
        head["bands"] = dict(sorted(self.bands.items()))
        lines = [f"{json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        reasons = [json.dumps(reason.__dict__) for reason in self.reasons]
        runs = [f"{json.dumps(name)}: {json.dumps(self.runs[name], sort_keys=True)}" for name in sorted(self.runs)]
        inside = ('"reasons": [', ",\n".join(reasons), "],", '"runs": {', ",\n".join(runs), "}")
        return "\n".join(("{", *lines, *inside, "}", ""))

    def write(self, path: Path) -> None:
        """Write the file whole or not at all.

        Raises
        ------
        BaselineError
            If it cannot be written.
        """
        try:
            replace_file(path, self.text())
        except OSError as error:
            raise BaselineError(f"baseline {path}: cannot be written: {error}") from error


def default_bands() -> dict[str, float]:
    """Return the bands of a first baseline; the file's author may change them there."""
    return {name: metric.band for name, metric in METRICS.items() if metric.compared is not Compared.BITS}


def run_name(run: Run) -> str:
    """Return what names a run in a baseline: all that it is but the fingerprint of a user's file, which may change."""
    words = [
        f"{run.task}/{run.size}",
        with_options(run.method or run.gradient, run.gradient_options),
        with_options(run.optimizer, run.optimizer_options),
        with_options(run.solver, run.solver_options),
        f"{run.rtol:g}/{run.atol:g}",
        f"{run.dtype}/{run.precision}" if run.precision else run.dtype,
        run.device,
        f"seed {run.seed}",
    ]
    if run.gradient not in {run.method, ""}:
        words.insert(2, f"({run.gradient})")
    if "train" in run.passes.split(","):
        words.append(f"{run.iterations} iterations")
    return " ".join(words)


def entry_of(first: Record, second: Record) -> dict[str, object]:
    """Return what a baseline keeps of a run that was measured twice; what differs between the two is ``inexact``."""
    entry: dict[str, object] = {"status": str(first.status)}
    for name in METRICS:
        if first.measured.get(name) is not None:
            entry[name] = kept(name, first.measured[name])
    differing = differing_metrics(first, second)
    return entry | ({INEXACT: differing} if differing else {})


def differing_metrics(first: Record, second: Record) -> list[str]:
    """Return the metrics, and ``status``, in which two measurements of the same code differ, in order."""
    pairs: dict[str, tuple[object, object]] = {"status": (str(first.status), str(second.status))}
    pairs |= {name: (first.measured.get(name), second.measured.get(name)) for name in METRICS}
    return sorted(name for name, (a, b) in pairs.items() if a != b and not (_nan(a) and _nan(b)))


def baseline_of(
    suite: str, pairs: Mapping[str, tuple[Record, Record]], old: Baseline | None, reason: Reason
) -> Baseline:
    """Return the baseline of runs that were measured twice; bands and reasons of ``old`` are kept."""
    machine = next(iter(pairs.values()))[0].machine
    runs = {name: entry_of(*both) for name, both in pairs.items()}
    bands = default_bands() if old is None else old.bands
    return Baseline(suite, machine_class(machine), runs, bands, (*(old.reasons if old else ()), reason))


def read_baseline(path: Path, suite: str) -> Baseline:
    """Return the baseline in the file ``path``, which must be one of the suite named ``suite``.

    Raises
    ------
    BaselineError
        If there is no such file, it is no baseline of this form, or one of another suite.
    """
    update = f"write it with odegrad gate SUITE --baseline {path} --update --reason TEXT"
    if not path.is_file():
        raise BaselineError(f"--baseline {path}: expected a file, got none; {update}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BaselineError(
            f"--baseline {path}: expected JSON: {error}; restore the file, or delete it and {update}"
        ) from error
    if not isinstance(data, dict) or data.get("schema") != BASELINE_SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise BaselineError(
            f"--baseline {path}: expected a baseline of schema {BASELINE_SCHEMA}, got {found!r}; delete the file and "
            f"{update}"
        )
    if data.get("suite") != suite:
        raise BaselineError(
            f"--baseline {path}: expected a baseline of the suite {suite!r}, got one of {data.get('suite')!r}; "
            "give that suite or another file"
        )
    try:
        return _checked(data)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise BaselineError(
            f"--baseline {path}: expected a baseline as odegrad writes it: {error}; restore the file, or delete it and "
            f"{update}"
        ) from error


def _checked(data: Mapping[str, Any]) -> Baseline:
    """Return the baseline of the file's content; raises a plain error where it has another form."""
    bands = {str(name): float(band) for name, band in data["bands"].items()}
    for name, band in bands.items():
        if name not in METRICS or not 0.0 <= band < math.inf:
            raise ValueError(f"bands: {name}: expected a metric of the gate and a number of at least 0, got {band}")
    for name, entry in data["runs"].items():
        if not isinstance(entry, dict) or not isinstance(entry.get("status"), str):
            raise ValueError(f"runs: {name}: expected a table with a status, got {entry!r}")
        for key, value in entry.items():
            whole = METRICS[key].compared is not Compared.BITS if key in METRICS else False
            if whole and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ValueError(f"runs: {name}: {key}: expected a number, got {value!r}")
    reasons = tuple(Reason(str(r["date"]), r["commit"], str(r["reason"])) for r in data["reasons"])
    return Baseline(str(data["suite"]), dict(data["machine"]), dict(data["runs"]), bands, reasons)


def _nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
