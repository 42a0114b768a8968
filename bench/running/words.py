"""Runs, what they report and how they end, in a few words."""

import logging
from collections.abc import Mapping

from odegrad.records.columns import PARTS
from odegrad.records.record import TUNING, Record, Run, Status
from odegrad.reports.units import metric, seconds

_log = logging.getLogger(__name__)


def describe(run: Run) -> str:
    """Return a run in a few words; a trial with the settings that it tries."""
    words = f"{run.task} {run.method or run.gradient} {run.solver} seed {run.seed}"
    tried = {**dict(run.gradient_options), **dict(run.optimizer_options)} if run.stage == TUNING else {}
    return words + "".join(f" {name}={value}" for name, value in tried.items())


def detail(message: Mapping[str, object]) -> str:
    """Return a progress message in a few words."""
    words = [str(message.get("pass", ""))]
    if "iteration" in message and "of" in message:
        words.append(f"{message['iteration']}/{message['of']}")
    loss = message.get("loss")
    if isinstance(loss, (int, float)):
        words.append(f"loss {loss:.4g}")
    return " ".join(words)


def found_in(message: Mapping[str, object]) -> Mapping[str, object]:
    """Return the columns that a message tells of a pass which has ended; empty where it tells of none."""
    found = message.get("found")
    return found if isinstance(found, Mapping) else {}


def iteration_time(columns: Mapping[str, object]) -> str:
    """Return the time of one iteration in ``columns`` of a time pass, empty where a part of it is missing."""
    parts = [columns.get(name) for name in PARTS]
    known = [part for part in parts if isinstance(part, float)]
    return seconds(sum(known)) if len(known) == len(parts) else ""


def duration(elapsed: float) -> str:
    """Return a duration in seconds as ``0:12`` or ``1:02:03``."""
    minutes, rest = divmod(round(elapsed), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def log_end(record: Record, prefix: str = "", suffix: str = "") -> None:
    """Log how a run ended: information if it is fine, otherwise a warning with its message."""
    took = record.measured.get("process_seconds", 0.0)
    if record.status is Status.OK:
        name, value = record.measured.get("metric_name"), record.measured.get("metric_value")
        told = f", {name} {metric(value)}" if isinstance(value, float) else ""
        _log.info("%s%s: ok%s, %.1f s%s", prefix, describe(record.run), told, took, suffix)
    else:
        _log.warning("%s%s: %s, %s%s", prefix, describe(record.run), record.status, record.message, suffix)
