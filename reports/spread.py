"""How far the seeds behind a row of the summary lie apart, and how well its times are known."""

import math

import pandas as pd

from odegrad.records.columns import PARTS
from odegrad.records.record import Status
from odegrad.reports.summary import KEY, Results, Source

SPREAD = ("nfe_forward", "nfe_backward", "peak_bytes", "train_seconds", "metric_value")
"""Columns of the summary whose ends over the seeds are told."""


def with_spread(source: Source) -> pd.DataFrame:
    """Return the summary with how its seeds lie apart.

    Beside its columns, for each of ``SPREAD``, ``NAME_least`` and ``NAME_most`` over the runs that ended ``ok``, and
    ``NAME_between``: whether the median is no run's value. ``train_noise`` and ``peak_noise``: half the range of
    ``train_seconds`` and ``peak_bytes``, relative to the median. ``time_noise``: half the width in which the time of an
    iteration is known, relative to it: the wider of the time pass's own interval (the median over runs) and of half the
    range of the runs' times. NaN where nothing was measured.
    """
    return Results.of(source).once(_with_spread)


def _with_spread(results: Results) -> pd.DataFrame:
    table = results.table
    cells = results.cells
    names = [*SPREAD, *PARTS, "time_relative_interval"]
    ok = cells[cells["status"] == Status.OK]
    values = ok[list(KEY)].astype("string").assign(**{name: ok[name].astype("float64") for name in names})
    values["iteration"] = values[list(PARTS)].sum(axis=1, skipna=False)
    groups = values.groupby(list(KEY))
    told: dict[str, pd.Series] = {}
    for name in (*SPREAD, "iteration"):
        told |= {f"{name}_least": groups[name].min(), f"{name}_most": groups[name].max()}
        middle = groups[name].transform("median")
        hit = (values[name] == middle).groupby([values[key] for key in KEY]).any()
        told[f"{name}_between"] = ~hit & groups[name].count().astype(bool)
    spread = pd.DataFrame(told)
    range_of_times = _half_range(spread, groups["iteration"].median(), "iteration")
    spread["time_noise"] = pd.concat([groups["time_relative_interval"].median(), range_of_times], axis=1).max(axis=1)
    spread["train_noise"] = _half_range(spread, groups["train_seconds"].median(), "train_seconds")
    spread["peak_noise"] = _half_range(spread, groups["peak_bytes"].median(), "peak_bytes")
    spread = spread.drop(columns=[name for name in spread if str(name).startswith("iteration_")])
    joined = table.merge(spread.reset_index(), how="left", on=list(KEY))
    flags = [f"{name}_between" for name in SPREAD]
    return joined.assign(**{name: joined[name].fillna(value=False).astype(bool) for name in flags})


def _half_range(spread: pd.DataFrame, middle: pd.Series, name: str) -> pd.Series:
    return (spread[f"{name}_most"] - spread[f"{name}_least"]) / (2.0 * middle.where(middle > 0, math.nan))
