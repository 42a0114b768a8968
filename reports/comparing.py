"""Statistics that compare methods over tasks: paired ratios, interquartile means, profiles, targets, ranks.

Failures are censored data: a failed or unfinished run costs infinity, and is never dropped from a comparison.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from odegrad.errors import UsageError
from odegrad.records.record import Status
from odegrad.reports.statistics import MIN_VALUES, Floats, Interval, MedianInterval, median, median_interval
from odegrad.reports.summary import Results, Source

BLOCK = ["task", "size", "iterations", "solver", "rtol", "atol", "device", "dtype", "precision", "seed"]
"""What two runs of unlike methods must share to be paired."""


@dataclass(frozen=True)
class Ratio:
    """A method's cost over another's, in the same blocks."""

    median: float
    interval: MedianInterval
    n_ok: int
    """Blocks in which both have a finite cost."""
    n: int
    """Blocks that hold both."""


def costs(frame: pd.DataFrame, column: str) -> pd.Series:
    """Return a column as costs: infinity where a run failed, NaN only where an ``ok`` run did not measure it."""
    values = frame[column].astype("float64")
    return values.where(frame["status"] == Status.OK, math.inf)


def paired_ratio(frame: Source, column: str, method: str, baseline: str) -> Ratio:
    """Return the median over common blocks of a method's cost over the baseline's, with its exact interval.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``.
    column
        A positive column: seconds, bytes, calls.
    method, baseline
        Names of methods; blocks that lack one of them are left out. A method with several variants in a block (a
        sweep over its own options) counts with its median there.

    Returns
    -------
    Ratio
        Infinite in blocks where the method alone failed, 0 where the baseline alone did; blocks where both failed say
        nothing and are in ``n`` alone.
    """
    return ratio_of(paired_costs(Results.of(frame).cells, column, method, baseline))


def ratio_of(pairs: pd.DataFrame) -> Ratio:
    """Return ``paired_ratio`` of the blocks in ``pairs``, which ``paired_costs`` made."""
    ratios = cost_ratios(pairs)
    both = int(np.isfinite(pairs.to_numpy(dtype=float)).all(axis=1).sum())
    return Ratio(median(ratios), median_interval(ratios), both, len(pairs))


def paired_costs(cells: pd.DataFrame, column: str, method: str, baseline: str) -> pd.DataFrame:
    """Return the costs ``mine`` and ``base`` of two methods in each block that holds both; the index is ``BLOCK``.

    ``cells`` are those of ``odegrad.reports.summary``; costs as ``costs`` makes them; variants share a median.
    """
    return pairs_of(cost_table(cells, column), method, baseline)


def pairs_of(table: pd.DataFrame, method: str, baseline: str) -> pd.DataFrame:
    """Return ``paired_costs`` from a ``cost_table``."""
    if method not in table or baseline not in table:
        nothing = pd.MultiIndex.from_arrays([[]] * len(BLOCK), names=BLOCK)
        return pd.DataFrame({"mine": [], "base": []}, index=nothing, dtype="float64")
    return pd.DataFrame({"mine": table[method], "base": table[baseline]}).dropna()


def cost_ratios(pairs: pd.DataFrame) -> Floats:
    """Return ``mine / base`` of ``paired_costs``, ``[n]``: NaN where both are infinite."""
    mine, base = pairs["mine"].to_numpy(dtype=float), pairs["base"].to_numpy(dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(mine / base)


def interquartile_mean(scores: Sequence[Sequence[float]] | Floats) -> float:
    """Return the mean of the middle half of all scores ``[task][seed]`` (Agarwal et al., 2021); no score may be NaN.

    A quarter of the scores is cut off at each end, rounded down to whole scores.
    """
    every = np.concatenate([np.asarray(task, dtype=float) for task in scores])
    with np.errstate(invalid="ignore"):
        return float(_middle_means(every))


def _middle_means(scores: Floats) -> Floats:
    """Return the means of the middle halves of the rows ``[..., n]``; scipy.stats takes a second to be imported."""
    cut = scores.shape[-1] // 4
    return np.asarray(np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut].mean(axis=-1))


def interquartile_interval(
    scores: Sequence[Sequence[float]], seed: int = 0, level: float = 0.95, resamples: int = 1000
) -> Interval:
    """Return the percentile interval of the interquartile mean, seeds resampled within each task.

    The stratified bootstrap of Agarwal et al. (2021): the tasks are fixed, the seeds are a sample. It holds the mean
    less often than ``level`` says: at 0.95 in 0.85 to 0.95 of cases from ``MIN_VALUES`` seeds of a task on, in 0.5 to
    0.8 of cases from two (simulated in the tests). The ends are NaN where a task has fewer than ``MIN_VALUES``.

    Raises
    ------
    UsageError
        If a score is NaN or there is none: a failed run has the worst score, not none.
    """
    tasks = [np.asarray(task, dtype=float) for task in scores]
    if not tasks or any(not task.size or np.isnan(task).any() for task in tasks):
        raise UsageError("scores: expected at least one number in every task and no NaN; give failed runs the worst")
    if min(task.size for task in tasks) < MIN_VALUES:
        return Interval(math.nan, math.nan)
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([task[rng.integers(0, task.size, (resamples, task.size))] for task in tasks], axis=1)
    tail = (1.0 - level) / 2.0
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(_middle_means(drawn), [tail, 1.0 - tail])
    return Interval(float(low), float(high))


def performance_profile(table: pd.DataFrame) -> tuple[Floats, pd.DataFrame]:
    """Return the performance profiles of methods (Dolan and More, 2002).

    Parameters
    ----------
    table
        Costs, a row a problem and a column a method; infinity or NaN where a problem was not solved.

    Returns
    -------
    numpy.ndarray, pandas.DataFrame
        Every ratio to the best method ``[n]``, from 1 upwards, and for each method (a column) the share of all
        problems that it solves within each ratio. A problem that nobody solved is a problem still.
    """
    values = table.to_numpy(dtype=float)
    values = np.where(np.isnan(values), math.inf, values)
    best = values.min(axis=1, keepdims=True) if values.size else values
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(
            np.isfinite(values), np.where(best > 0, values / best, np.where(values > 0, math.inf, 1.0)), math.inf
        )
    taus = np.unique(np.concatenate([[1.0], ratios[np.isfinite(ratios)]]))
    solved = [np.searchsorted(column, taus, side="right") for column in np.sort(ratios, axis=0).T]
    shares = np.array(solved).reshape(table.shape[1], taus.size) / max(len(table), 1)
    return taus, pd.DataFrame(shares.T, index=pd.Index(taus, name="ratio"), columns=table.columns)


def ranks(table: pd.DataFrame) -> pd.Series:
    """Return each method's mean rank over problems, 1 the least cost; ties share their mean, failures rank last.

    ``table`` as in ``performance_profile``.
    """
    worst = table.astype(float).fillna(math.inf)
    return worst.rank(axis=1, method="average").mean(axis=0)


def cost_table(cells: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return costs for profiles and ranks: a row a ``BLOCK``.

    ``cells`` as in ``paired_costs``. Only methods that ran in a block are compared there: one that did not try has
    NaN. Variants share a median.
    """
    few = cells[[*BLOCK, "method"]].assign(cost=costs(cells, column)).dropna(subset="cost")
    return few.pivot_table(index=BLOCK, columns="method", values="cost", aggfunc="median")


def first_reached(metric: Sequence[float], target: float, higher_is_better: bool) -> int | None:
    """Return the place of the first value that is at least as good as ``target``; None if none is."""
    values = np.asarray(metric, dtype=float)
    reached = values >= target if higher_is_better else values <= target
    place = int(reached.argmax()) if reached.size else 0
    return place if reached.size and reached[place] else None


def time_to_target(frame: Source, targets: Mapping[str, float] | pd.Series | None = None) -> pd.DataFrame:
    """Return the cells with ``target``, and ``target_seconds`` and ``target_iterations`` until they reached it.

    Those of the first evaluation that is as good. Infinity (censored) where a run failed or never reached it; NaN
    where its task has no target.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``.
    targets
        Task -> target; by default each task's own. ``baseline_targets`` makes them from a method. A series holds the
        target of every cell, in their order.
    """
    results = Results.of(frame)
    if targets is None:
        return results.once(_to_own_target)
    if isinstance(targets, pd.Series):
        return _reaching(results.cells.assign(target=targets.to_numpy(dtype=float)))
    return _to_targets(results.cells, results.cells["task"].map(targets).astype("float64"))


def _to_own_target(results: Results) -> pd.DataFrame:
    return _to_targets(results.cells, results.cells["metric_target"])


def _to_targets(every: pd.DataFrame, wanted: pd.Series) -> pd.DataFrame:
    # a run that failed early does not hold its target: take that of its task at its size
    of_task = wanted.groupby([every["task"], every["size"]])
    return _reaching(every.assign(target=of_task.transform("first").astype("float64")))


def _reaching(every: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with the seconds and iterations to their ``target``."""
    reached = np.array([_reached(*row) for row in every[_TRACED].itertuples(index=False)], dtype=float).reshape(-1, 2)
    return every.assign(target_seconds=reached[:, 0], target_iterations=reached[:, 1])


def baseline_targets(frame: Source, baseline: str) -> dict[str, float]:
    """Return for each task the best of the baseline's median metric over its evaluations, as a target for all."""
    every = Results.of(frame).cells
    mine = every[(every["method"] == baseline) & (every["status"] == Status.OK) & every["trace_metric"].notna()]
    targets = {}
    for task, rows in mine.groupby("task"):
        length = min(len(values) for values in rows["trace_metric"])
        middle = np.median([values[:length] for values in rows["trace_metric"]], axis=0)
        upwards = bool(rows["metric_higher_is_better"].iloc[0])
        targets[str(task)] = float(np.nanmax(middle) if upwards else np.nanmin(middle))
    return targets


_TRACED = ["target", "status", "metric_higher_is_better", "trace_metric", "trace_seconds", "trace_iteration"]


def _reached(
    target: float, status: str, higher_is_better: object, metric: object, seconds: object, iterations: object
) -> tuple[float, float]:
    """Return the seconds and iterations to the target."""
    if math.isnan(target):
        return math.nan, math.nan
    place = None
    if status == Status.OK and isinstance(metric, list):
        place = first_reached(metric, target, bool(higher_is_better))
    if place is None:
        return math.inf, math.inf
    seconds_at, iterations_at = (
        points[place] if isinstance(points, list) and place < len(points) else math.inf
        for points in (seconds, iterations)
    )
    return seconds_at, iterations_at
