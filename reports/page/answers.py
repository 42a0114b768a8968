"""What to take on each task, in a few sentences; never a method with a gradient that is not accurate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from odegrad.records.columns import PARTS
from odegrad.records.record import endings
from odegrad.reports import units
from odegrad.reports.comparing import time_to_target
from odegrad.reports.equal_error import pareto_front
from odegrad.reports.names import joined
from odegrad.reports.page.findings import costs_by_seed, not_beaten, runs_by_row
from odegrad.reports.statistics import Floats, least_seeds
from odegrad.reports.summary import Results, Source, rows_of, summary
from odegrad.reports.tables.table import label

BEARABLE = 5.0
"""A method named for its memory takes at most this many times the fastest one's time per iteration."""
LESS = 1.2
"""It is named where it takes at least this many times less."""
VERDICTS = ("gradient_accuracy", "trained_gradient_accuracy")
"""Columns that say whether a run's gradient was accurate."""
ACCURATE = "accurate"


@dataclass(frozen=True)
class TaskAdvice:
    """What a result set says of one task."""

    take: str
    """The method to take and why, in one sentence."""
    also: tuple[str, ...]
    """What else there is to know, a sentence each: memory, metric, front, what is not taken."""


@dataclass(frozen=True)
class Contender:
    """A method on one task, with its runs."""

    name: str
    runs: pd.DataFrame
    row: pd.Series
    """Its row of the summary, with ``iteration`` and ``calls``: medians over seeds."""

    @property
    def why_not(self) -> str:
        """Return why it is not to be taken: runs did not end ``ok``, gradients are not accurate; empty if it is."""
        failed = endings(self.runs["status"])
        if failed:
            return f"{failed}, of {len(self.runs)} run{'s' if len(self.runs) > 1 else ''}"
        said = {str(v) for column in VERDICTS if column in self.runs for v in self.runs[column].dropna()}
        if not said - {ACCURATE}:
            return ""
        errors = self.runs[["gradient_relative_error", "trained_gradient_relative_error"]].to_numpy(dtype=float)
        largest = units.error(float(np.nanmax(errors, initial=0.0)))
        return f"gradient {' or '.join(sorted(said - {ACCURATE}))}, error up to {largest}"


def answers(source: Source) -> dict[str, TaskAdvice]:
    """Return for each task with a run that ended ``ok`` what to take, and why.

    The fastest method is the one with the least median of training seconds to the task's target, where it is reached;
    of seconds per iteration elsewhere; of f calls per iteration where no time was measured. How sure that is stands
    with it: decided by ``not_beaten``, or on how many seeds it was seen.
    """
    results = Results.of(source)
    groups = _groups(results)
    table = summary(results)
    table = table.assign(
        iteration=table[list(PARTS)].sum(axis=1, skipna=False),
        calls=table["nfe_forward"] + table["nfe_backward"],
    )
    found = {}
    for task, rows in table[table["n_ok"] > 0].groupby("task", sort=False):
        told = zip(rows_of(rows), (row for _, row in rows.iterrows()), strict=True)
        methods = [Contender(label(named), groups[named.task, named.method, named.variant], row) for named, row in told]
        found[str(task)] = _of_task(methods)
    return found


def _groups(results: Results) -> dict[tuple[str, ...], pd.DataFrame]:
    """Return the runs of each row, with f calls per iteration and seconds to the target beside what they have."""
    targets = time_to_target(results).set_index("run_id")["target_seconds"]
    targets = targets[~targets.index.duplicated()]
    return {
        key: runs.assign(
            calls=runs["nfe_forward"].astype("float64") + runs["nfe_backward"].astype("float64"),
            target_seconds=runs["run_id"].map(targets),
        )
        for key, runs in results.once(runs_by_row).items()
    }


def _of_task(methods: Sequence[Contender]) -> TaskAdvice:
    good = [method for method in methods if not method.why_not]
    refused = [f"{method.name} ({method.why_not})" for method in methods if method.why_not]
    left = (f"Not taken: {'; '.join(refused)}.",) if refused else ()
    if not good:
        return TaskAdvice("No method is advised: none ended every run with an accurate gradient.", left)
    take, first = _fastest(good)
    said = (_frugal(good, first), _metric(good), _front(good))
    return TaskAdvice(take, (*(each for each in said if each), *left))


def _fastest(good: Sequence[Contender]) -> tuple[str, Contender | None]:
    """Return the sentence on speed, and the fastest method; none where nothing was measured."""
    asked: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("target_seconds", "of training to the target", units.seconds),
        ("iteration", "per iteration", units.seconds),
        ("calls", "f calls per iteration", units.count),
    )
    for column, what, text in asked:
        costs = costs_by_seed([method.runs for method in good], column)
        if np.isfinite(costs).all(axis=1).any():
            return _race([method.name for method in good], good, costs, what, text)
    return "No method is advised: neither times nor f calls were measured.", None


def _race(
    names: Sequence[str], good: Sequence[Contender], costs: Floats, what: str, text: Callable[[float], str]
) -> tuple[str, Contender]:
    medians = np.median(np.where(np.isnan(costs), math.inf, costs), axis=1)
    first = int(np.argmin(medians))
    seeds = costs.shape[1]
    told = f"{text(float(medians[first]))} {what}"
    if len(good) == 1:
        return f"Take {names[0]}: {told}, the only method to take that was measured.", good[0]
    least = np.nanmin(costs, axis=0)
    equal = [i for i in range(len(names)) if np.array_equal(costs[i], costs[first])]
    wins = int((costs[first] == least).sum())
    who = joined(names[i] for i in equal)
    others = [i for i in range(len(names)) if i not in equal]
    if not others:
        return f"Take any: {told} with {who} alike, on every seed.", good[first]
    kept = not_beaten(costs)
    if all(kept[i] == (i in equal) for i in range(len(names))):
        sure = f"the least, decided on {seeds} seeds"
    else:
        seeds_needed = least_seeds(len(names))
        enough = "not decided" if seeds >= seeds_needed else f"{seeds_needed} seeds that agree would decide it"
        sure = f"the least on {wins} of {seeds} seed{'s' if seeds > 1 else ''} ({enough})"
    second = min(others, key=lambda i: medians[i])
    behind = f"{names[second]} takes {medians[second] / medians[first]:.2g} times that"
    if not math.isfinite(medians[second]):
        behind = "no other gets there"
    return f"Take {who}: {told}, {sure}; {behind}.", good[first]


def _frugal(good: Sequence[Contender], first: Contender | None) -> str:
    """Return which method takes much less memory than the fastest in bearable time; empty if none does."""
    if first is None or not first.row["peak_bytes"] > 0:
        return ""
    scale = "iteration" if first.row["iteration"] > 0 else "calls"
    bearable = [m for m in good if m.row[scale] <= BEARABLE * first.row[scale] and m.row["peak_bytes"] > 0]
    small = min(bearable, key=lambda method: float(method.row["peak_bytes"]), default=first)
    less = first.row["peak_bytes"] / small.row["peak_bytes"]
    if less < LESS:
        return f"No method here takes much less memory than its {units.memory(first.row['peak_bytes'])} at the peak."
    slower = small.row[scale] / first.row[scale]
    return (
        f"Where memory is short, {small.name}: {units.memory(small.row['peak_bytes'])} at the peak, {less:.2g} times "
        f"less, at {slower:.2g} times the {'time' if scale == 'iteration' else 'f calls'} per iteration."
    )


def _metric(good: Sequence[Contender]) -> str:
    """Return whether the trained models differ."""
    names = [method.row["metric_name"] for method in good if pd.notna(method.row["metric_name"])]
    if len(good) < 2 or not names:
        return ""
    upwards = bool(good[0].row["metric_higher_is_better"])
    costs = costs_by_seed([method.runs for method in good], "metric_value", upwards)
    if not np.isfinite(costs).all():
        return ""
    medians = [float(method.row["metric_value"]) for method in good]
    ends = f"{units.metric(min(medians))} to {units.metric(max(medians))}"
    kept = not_beaten(costs)
    if kept.all():
        return f"The trained models are not told apart: {names[0]} {ends} in the median."
    ahead = [method.name for method, one in zip(good, kept, strict=True) if one]
    return f"In {names[0]} ({ends}) {joined(ahead)} {'is' if len(ahead) == 1 else 'are'} not beaten by any."


def _front(good: Sequence[Contender]) -> str:
    """Return what no other method beats in time and gradient error both; empty if that is not known."""
    rows = pd.DataFrame([method.row for method in good], index=[method.name for method in good])
    rows = rows.assign(seconds=rows["forward_seconds"] + rows["backward_seconds"])
    rows = rows[(rows["seconds"] > 0) & (rows["gradient_relative_error"] >= 0)]
    if len(rows) < 2:
        return ""
    front = pareto_front(rows["seconds"].astype(float), rows["gradient_relative_error"].astype(float))
    ahead = list(front.index[front])
    return f"In time and gradient error together nothing beats {joined(ahead)} (medians)."
