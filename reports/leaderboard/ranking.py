"""How methods rank on a kind of task: by exact sign tests in common blocks, ranges where seeds cannot tell.

A method's rank lies between one more than the number of methods that beat it and the number of those that it does not
beat. One method beats another where it costs less in so many of their common blocks that the exact sign test says so,
adjusted by Holm over all ordered pairs of the table. So all beatings of one table are right together with a probability
of at least 95 %, and all true ranks lie in their ranges (the idea of Mogstad, Romano, Shaikh and Wilhelm, 2024).
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from odegrad.records.record import Status
from odegrad.reports.comparing import BLOCK
from odegrad.reports.contrasts import OWN_LIBRARY
from odegrad.reports.leaderboard.submissions import censored
from odegrad.reports.names import joined, short, sort_key
from odegrad.reports.statistics import (
    ERROR_RATE,
    MIN_VALUES,
    Floats,
    holm,
    least_seeds,
    median,
    median_interval,
    sign_test,
)


@dataclass(frozen=True)
class Contested:
    """A quantity by which methods are ranked."""

    column: str
    title: str
    timed: bool = False
    """Whether it is a time: compared within one submission on one machine only."""
    accurate_only: bool = True
    """Whether a run with a gradient that is not accurate counts as failed."""
    relative: bool = True
    """Whether ratios are shown, not differences."""


CONTESTED = (
    Contested("target_seconds", "Training time to the target", timed=True),
    Contested("iteration", "Time per iteration", timed=True),
    Contested("peak_bytes", "Peak memory of an iteration"),
    Contested("calls", "f calls per iteration, forward and backward"),
    Contested("trained_gradient_relative_error", "Gradient error after training", accurate_only=False),
    Contested("metric_value", "Metric after training", accurate_only=False, relative=False),
)


@dataclass(frozen=True)
class Standing:
    """A method's place in one table."""

    method: str
    library: str
    first: int
    """The best rank that it may have."""
    last: int
    """The worst one."""
    effect: float
    """Median over common blocks of its cost over the baseline's, or of the difference; NaN where there is none."""
    low: float
    high: float
    """The exact interval of that median; NaN where the blocks are too few."""
    n_ok: int
    """Blocks in which it has a finite cost."""
    n: int
    """Blocks that it tried."""

    @property
    def rank(self) -> str:
        """Return the rank as a reader sees it: ``1``, or ``2-4`` where it is not told apart."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True)
class Contest:
    """One table: methods on one kind of task, by one quantity, for times on one machine."""

    kind: str
    quantity: Contested
    machine: str
    """In words; empty where the quantity does not depend on it."""
    tasks: tuple[str, ...]
    baseline: str
    blocks: int
    standings: tuple[Standing, ...]

    @property
    def sentence(self) -> str:
        """Return what is decided at the top, or how many blocks that agree would decide it."""
        number = len(self.standings)
        top = [standing.method for standing in self.standings if standing.first == 1]
        if number == 1:
            return f"{top[0]} alone was measured."
        if len(top) == 1:
            return f"{top[0]} is first of {number}, decided on {self.blocks} blocks."
        if len(top) == number:
            needed = least_seeds(number * (number - 1))
            why = "they disagree" if self.blocks >= needed else f"at least {needed} that agree would"
            return f"Nothing decides who leads {number} methods: {self.blocks} blocks do not; {why}."
        return f"{joined(top)} lead {number} methods and are not told apart, on {self.blocks} blocks."


def contests(runs: pd.DataFrame) -> list[Contest]:
    """Return every table that ``contested`` runs make, by kind of task, quantity and machine.

    Quantities that nobody measured, and methods that did not measure one, are left out.
    """
    found = []
    for kind, of_kind in runs.groupby("kind", sort=False):
        for quantity in CONTESTED:
            parts = of_kind.groupby("hardware", sort=False) if quantity.timed else [("", of_kind)]
            for machine, part in parts:
                made = _contest(str(kind), quantity, str(machine), part)
                if made is not None:
                    found.append(made)
    return found


def beats(costs: Floats) -> NDArray[np.bool_]:
    """Return which methods beat which, ``[method, other]`` of costs ``[method, block]``; NaN where one did not run.

    Exact one-sided sign tests in common blocks, ties for neither, adjusted by Holm over all ordered pairs; nothing is
    asked of fewer than ``MIN_VALUES`` blocks.
    """
    number = len(costs)
    mine, other = costs[:, None, :], costs[None, :, :]
    common = (~np.isnan(mine) & ~np.isnan(other)).sum(-1)
    p_values = sign_test((mine < other).sum(-1), common)
    pairs = ~np.eye(number, dtype=bool)
    adjusted = np.ones((number, number))
    if number > 1:
        adjusted[pairs] = holm(p_values[pairs])
    return np.asarray((adjusted <= ERROR_RATE) & (common >= MIN_VALUES) & pairs, dtype=np.bool_)


def _contest(kind: str, quantity: Contested, machine: str, every: pd.DataFrame) -> Contest | None:
    runs = every[_measured(every, quantity.column)]
    cost = censored(runs, quantity.column, accurate_only=quantity.accurate_only)
    if quantity.column == "metric_value":
        upwards = runs["metric_higher_is_better"].fillna(value=False).astype(bool)
        cost = cost.where(~upwards | np.isinf(cost), -cost)
    if not np.isfinite(cost).any():
        return None
    block = [*BLOCK, "submission"] if quantity.timed else list(BLOCK)
    few = runs[[*block, "method"]].assign(cost=cost).dropna(subset="cost")
    table = few.pivot_table(index=block, columns="method", values="cost", aggfunc="median")
    names = sorted(map(str, table.columns), key=sort_key)
    costs = table[names].to_numpy(dtype=float).T
    base = int(np.isfinite(costs).any(axis=1).argmax())
    effects = _effects(quantity, costs, base, runs["metric_name"].dropna().nunique())
    libraries = runs.dropna(subset="library").groupby("method")["library"].first().to_dict()
    beaten = beats(costs)
    standings = [
        Standing(
            short(name), str(libraries.get(name) or OWN_LIBRARY),
            1 + int(beaten[:, place].sum()), len(names) - int(beaten[place].sum()),
            median(effects[place]), interval.low, interval.high,
            int(np.isfinite(costs[place]).sum()), int((~np.isnan(costs[place])).sum()),
        )
        for place, name in enumerate(names)
        for interval in [median_interval(effects[place])]
    ]  # fmt: skip
    standings.sort(key=lambda each: (each.first, each.last, math.inf if math.isnan(each.effect) else each.effect))
    sizes = runs[["task", "size"]].drop_duplicates().to_numpy()
    tasks = tuple(sorted(f"{short(task)} {size}" for task, size in sizes))
    return Contest(kind, quantity, machine, tasks, short(names[base]), len(table), tuple(standings))


def _measured(runs: pd.DataFrame, column: str) -> pd.Series:
    """Return which runs are of methods that measured ``column`` in one run that ended ``ok``, or that have none."""
    ok = runs["status"] == Status.OK
    told = (ok & runs[column].notna()).groupby(runs["method"]).transform("any")
    return told | ~ok.groupby(runs["method"]).transform("any")


def _effects(quantity: Contested, costs: Floats, base: int, metrics: int) -> Floats:
    """Return the effects ``[method, block]`` on costs beside the baseline's; NaN where there is nothing to tell.

    Differences of metrics of several names are no one quantity, and none is told.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if quantity.relative:
            return np.asarray(costs / costs[base])
        return np.asarray(costs - costs[base] if metrics == 1 else np.full_like(costs, math.nan))
