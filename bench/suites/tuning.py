"""Settings chosen by trials: of a method's grid of options the best point on the validation split."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from odegrad.records.record import Run, Status
from odegrad.suites.grid import Point
from odegrad.suites.suite import GridCell, cell_of

Criterion = Literal["metric", "loss"]


@dataclass(frozen=True)
class Choice:
    """What the trials of one method on one task came to."""

    trial: Run
    """The best one; the first of the grid if none ended well."""
    value: float | None
    """Its metric, or its least loss, on the validation split; None if no trial ended well."""
    trials: int
    ok: int
    """How many of the trials ended well."""
    by: Criterion = "metric"

    @property
    def point(self) -> Point:
        """Return the options that it chose."""
        return Point(self.trial.gradient_options, self.trial.optimizer_options)


def choose(
    trials: Sequence[Run], rows: Mapping[str, Mapping[str, object]], by: Criterion = "metric"
) -> dict[GridCell, Choice]:
    """Return the choice of every cell, by what its trials measured.

    The best finite value wins, the earlier point where two are equal. A cell none of whose trials ended well keeps
    the first point: its runs then fail as the trials did, and the results say so.

    Parameters
    ----------
    trials
        From ``Suite.trials``.
    rows
        Run id -> the trial's row, as ``Record.to_row`` makes it.
    by
        ``metric``: the metric on the validation split at the end of the trial; ``loss``: the least loss on that split
        at any evaluation, which tells trials apart whose accuracies are equal.
    """
    by_cell: dict[GridCell, list[Run]] = {}
    for trial in trials:
        by_cell.setdefault(cell_of(trial), []).append(trial)
    return {cell: _best(runs, rows, by) for cell, runs in by_cell.items()}


def _best(trials: Sequence[Run], rows: Mapping[str, Mapping[str, Any]], by: Criterion) -> Choice:
    best, best_score, best_value, ok = trials[0], -math.inf, None, 0
    for trial in trials:
        row = rows.get(trial.run_id, {})
        value = row.get("metric_value") if by == "metric" else _least(row.get("trace_validation_loss"))
        if row.get("status") != Status.OK or value is None or not math.isfinite(value):
            continue
        ok += 1
        score = value if by == "metric" and row.get("metric_higher_is_better") else -value
        if score > best_score:
            best, best_score, best_value = trial, score, value
    return Choice(best, best_value, len(trials), ok, by)


def _least(losses: Any) -> float | None:
    return min((float(v) for v in losses or () if v is not None and math.isfinite(v)), default=None)
