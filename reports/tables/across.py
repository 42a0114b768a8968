"""Methods over all tasks: costs over a baseline's in the same blocks, a score of the training, and ranks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from odegrad.records.columns import COLUMN_OF
from odegrad.records.record import Status
from odegrad.reports.comparing import (
    cost_table,
    interquartile_interval,
    interquartile_mean,
    pairs_of,
    ranks,
    ratio_of,
    time_to_target,
)  # fmt: skip
from odegrad.reports.names import sort_key
from odegrad.reports.summary import Results, Source

ACROSS_RATIOS = {"target_seconds": "time to target"} | {
    name: COLUMN_OF[name].heading for name in ("train_seconds", "peak_bytes")
}
"""Costs of which a row holds the ratio to the baseline, and what a table calls them."""
ACROSS_COLUMNS = (
    "method", "baseline",
    *(f"{name}_{part}" for name in ACROSS_RATIOS for part in ("ratio", "low", "high", "n_ok", "n")),
    "score", "score_low", "score_high", "time_rank", "n_ok", "n",
)  # fmt: skip


def across(frame: Source, baseline: str | None = None) -> pd.DataFrame:
    """Return one row a method.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``.
    baseline
        The method whose costs are 1; by default the first in the order of methods, which is ``naive`` if it ran.

    Returns
    -------
    pandas.DataFrame
        For each of ``ACROSS_RATIOS`` the paired median ratio, its exact interval over blocks, the blocks in which
        both have a finite cost and all blocks that hold both. ``score``: the interquartile mean over tasks and seeds of
        the training's success, the share of the way from the task's untrained start to its target that a run came (at
        most 1; a failed run has 0), with its stratified bootstrap interval where every task has enough seeds.
        ``time_rank``: the mean rank by time to the target in the blocks that every method tried. ``n_ok, n``: runs.
    """
    results = Results.of(frame)
    return results.once(_across_first) if baseline is None else _across(results, baseline)


def _across_first(results: Results) -> pd.DataFrame:
    return _across(results, None)


def _across(every: Results, baseline: str | None) -> pd.DataFrame:
    runs = time_to_target(every)
    names = sorted(set(runs["method"].astype(str)), key=sort_key)
    base = baseline or (names[0] if names else "")
    tables = {column: cost_table(runs, column) for column in ACROSS_RATIOS} if names else {}
    timed = tables["target_seconds"].dropna() if names else pd.DataFrame()
    rank = ranks(timed) if np.isfinite(timed.to_numpy(dtype=float)).any() else pd.Series(dtype="float64")
    scored = runs.assign(score=_scores(runs))
    rows = []
    for name in names:
        mine = scored[scored["method"] == name]
        row: dict[str, object] = {"method": name, "baseline": base, "time_rank": float(rank.get(name, math.nan))}
        for column in ACROSS_RATIOS:
            ratio = ratio_of(pairs_of(tables[column], name, base))
            ends = {"ratio": ratio.median, "low": ratio.interval.low, "high": ratio.interval.high}
            row |= {f"{column}_{part}": v for part, v in (ends | {"n_ok": ratio.n_ok, "n": ratio.n}).items()}
        known = mine.dropna(subset="score")
        scores: Sequence[Any] = [group.to_numpy(dtype=float) for _, group in known.groupby("task")["score"]]
        if scores:
            interval = interquartile_interval(scores)
            row |= {"score": interquartile_mean(scores), "score_low": interval.low, "score_high": interval.high}
        rows.append(row | {"n_ok": int((mine["status"] == Status.OK).sum()), "n": len(mine)})
    return pd.DataFrame(rows, columns=list(ACROSS_COLUMNS))


def _scores(runs: pd.DataFrame) -> pd.Series:
    """Return how much of the way from the task's start (the median over all runs) to its target each run came."""
    first = [v[0] if isinstance(v, np.ndarray) and v.size else math.nan for v in runs["trace_metric"]]
    start = pd.Series(first, runs.index, dtype="float64").groupby(runs["task"]).transform("median")
    way = (runs["metric_value"].astype("float64") - start) / (runs["target"] - start)
    way = way.clip(0.0, 1.0).where(runs["status"] == Status.OK, 0.0).fillna(0.0)
    return way.where(runs["target"].notna() & start.notna() & (runs["target"] != start))
