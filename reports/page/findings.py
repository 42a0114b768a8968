"""What a result set says, in plain sentences: who is best where seeds can tell, and how many it takes where not."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from odegrad.records.columns import PARTS
from odegrad.records.record import Status, endings
from odegrad.reports import units
from odegrad.reports.names import joined
from odegrad.reports.statistics import ERROR_RATE, MIN_VALUES, Floats, least_seeds, sign_test
from odegrad.reports.summary import KEY, Results, Source, rows_of, summary
from odegrad.reports.tables.table import label


@dataclass(frozen=True)
class Leader:
    """One sentence: what is compared, who is best or that it is not decided, and on what that rests."""

    what: str
    best: str
    value: str
    """The median of the best, or from the least median to the largest."""
    rest: str


Text = Callable[[Any], str]
Flags = NDArray[np.bool_]


def outcome(source: Source) -> str:
    """Return how many runs there are and how they ended; trials that choose settings are not counted."""
    frame = Results.of(source).cells
    failed = frame["status"][frame["status"] != Status.OK]
    if frame.empty:
        return "There is no run yet."
    runs = f"{len(frame)} run{'s' if len(frame) > 1 else ''}"
    if failed.empty:
        return f"{runs}, all ended ok."
    if len(failed) == len(frame):
        return f"{runs}, none ended ok: {endings(failed)}; the reasons are below."
    return f"{runs}; {endings(failed)}, with the reasons below, and in no median."


def runs_by_row(results: Results) -> dict[tuple[str, ...], pd.DataFrame]:
    """Return the runs of each row of the summary, by ``KEY``, with ``iteration``: the seconds of one."""
    cells = results.cells
    iteration = cells[list(PARTS)].astype("float64").sum(axis=1, skipna=False)
    return dict(list(cells.assign(iteration=iteration).groupby(list(KEY))))


def findings(frame: Source) -> dict[str, list[Leader]]:
    """Return for each task the best metric, the fastest training and iteration, the least errors and memory.

    A method is named best where ``not_beaten`` leaves no other. Methods with the same value in every seed share the
    place. Quantities that no run measured are left out.
    """
    results = Results.of(frame)
    table = summary(results)
    groups = results.once(runs_by_row)
    return {
        str(task): _of_task(rows, [groups[row.task, row.method, row.variant] for row in rows_of(rows)])
        for task, rows in table[table["n_ok"] > 0].groupby("task", sort=False)
    }


def _of_task(rows: pd.DataFrame, runs: Sequence[pd.DataFrame]) -> list[Leader]:
    names, higher = rows["metric_name"].dropna(), rows["metric_higher_is_better"].dropna()
    metric = names.iloc[0] if len(names) else "metric"
    upwards = bool(higher.iloc[0]) if len(higher) else True
    labels = [label(row) for row in rows_of(rows)]
    asked: list[tuple[str, str, Text, bool]] = [
        ("metric_value", f"Best {metric}", units.metric, upwards),
        ("train_seconds", "Fastest training", units.seconds, False),
        ("iteration", "Fastest iteration (forward + backward + update)", units.seconds, False),
        ("gradient_relative_error", "Smallest gradient error before training", units.error, False),
        ("trained_gradient_relative_error", "Smallest gradient error after training", units.error, False),
        ("peak_bytes", "Least peak bytes", units.memory, False),
    ]
    found = [_leader(labels, runs, *each) for each in asked]
    return [finding for finding in found if finding is not None]


def _leader(
    labels: Sequence[str], runs: Sequence[pd.DataFrame], column: str, what: str, text: Text, upwards: bool
) -> Leader | None:
    costs = costs_by_seed(runs, column, upwards)
    measured: Flags = np.asarray(np.isfinite(costs).any(axis=1))
    if not measured.any():
        return None
    names = [name for name, known in zip(labels, measured, strict=True) if known]
    costs = costs[measured]
    with np.errstate(invalid="ignore"):
        medians = np.nanmedian(np.where(np.isinf(costs), np.nan, costs), axis=1)
    told = [text(-value if upwards else value) for value in medians]
    if len(names) == 1:
        return Leader(what, names[0], told[0], "the only one measured")
    equal = _equal(costs)
    if equal.all():
        return Leader(what, joined(names), told[0], "the same for all in every seed")
    seeds = int((~np.isnan(costs)).all(axis=0).sum())
    kept = not_beaten(costs)
    first = int(np.argmin(np.where(kept, medians, math.inf)))
    if (kept == equal[first]).all():
        last = int(np.argmax(medians))
        rest = f"better than each other on at least {_least_wins(costs, first, kept)} of {seeds} seeds"
        return Leader(what, joined(_of(names, kept)), told[first], f"{rest}; last: {names[last]}, {told[last]}")
    among = "" if kept.all() else f" between {joined(_of(names, kept))}"
    ends = [told[int(pick(medians))] for pick in ((np.argmax, np.argmin) if upwards else (np.argmin, np.argmax))]
    holders = {end: joined(n for n, each in zip(names, told, strict=True) if each == end) for end in ends}
    values = f"medians {' to '.join(f'{end} ({named})' for end, named in holders.items())}"
    return Leader(what, f"not decided{among}", values, _needed(seeds, len(names)))


def costs_by_seed(runs: Sequence[pd.DataFrame], column: str, upwards: bool = False) -> Floats:
    """Return the costs ``[method, seed]`` of each method's runs: a failed one is infinite, NaN where none ran."""
    seeds = sorted({seed for each in runs for seed in each["seed"]})
    table = np.full((len(runs), len(seeds)), math.nan)
    for row, each in zip(table, runs, strict=True):
        values = each[column].astype("float64") * (-1.0 if upwards else 1.0)
        values = values.where(each["status"] == Status.OK, math.inf)
        of_seed = values.groupby(each["seed"]).median()
        row[:] = of_seed.reindex(seeds).to_numpy(dtype=float)
    return table


def not_beaten(costs: Floats) -> Flags:
    """Return which methods no other beats, ``[..., method]`` of costs ``[..., method, seed]``.

    A method is beaten where another costs less on so many of their common seeds that the exact sign test has a p-value
    of at most ``ERROR_RATE`` over the number of methods. The best method, that which has no other below it in the
    median of the differences, is beaten with a probability of less than ``ERROR_RATE``; so a single one that is left is
    it, but for that probability. Nothing is asked of fewer than ``MIN_VALUES`` seeds.
    """
    number = costs.shape[-2]
    mine, other = costs[..., :, None, :], costs[..., None, :, :]
    common = (~np.isnan(mine) & ~np.isnan(other)).sum(-1)
    p_values = sign_test((other < mine).sum(-1), common)
    beaten = (p_values <= ERROR_RATE / number) & (common >= MIN_VALUES)
    return np.asarray(~beaten.any(axis=-1), dtype=np.bool_)


def _equal(costs: Floats) -> Flags:
    """Return which methods cost the same in every seed, ``[method, method]``."""
    mine, other = costs[:, None, :], costs[None, :, :]
    same = (mine == other) | (np.isnan(mine) & np.isnan(other))
    return np.asarray(same.all(axis=-1), dtype=np.bool_)


def _of(names: Sequence[str], kept: Flags) -> list[str]:
    return [name for name, one in zip(names, kept, strict=True) if one]


def _least_wins(costs: Floats, first: int, kept: Flags) -> int:
    return int(min((costs[first] < costs[other]).sum() for other in np.flatnonzero(~kept)))


def _needed(seeds: int, methods: int) -> str:
    """Return why nothing is decided: from how many seeds on it can be, where all of them agree."""
    least = least_seeds(methods)
    if seeds < least:
        return f"{seeds} seed{'s' if seeds != 1 else ''}; {methods} methods take at least {least} that agree"
    return f"the {seeds} seeds disagree, or too few are common"
