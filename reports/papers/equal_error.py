"""Costs at equal gradient error: what one method costs over another where both are as exact, over a sweep."""

import math

import numpy as np
import pandas as pd

from odegrad.records.record import Status
from odegrad.reports.comparing import BLOCK
from odegrad.reports.figures.work_precision import pareto_front
from odegrad.reports.names import sort_key
from odegrad.reports.papers.quantity import SWEPT_ERROR, TRAINING_NFE_BACKWARD, with_quantity
from odegrad.reports.statistics import Floats
from odegrad.reports.summary import Results

OF_A_SWEEP = [name for name in BLOCK if name not in {"rtol", "atol"}]
"""What the runs of one sweep share."""


def ratios_at_equal_error(mine: pd.DataFrame, base: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Return ``task, seed, effect`` of every sweep that both tried: ``ratio_at_equal_error``.

    ``mine, base`` are cells with ``quantity``, whose gradient errors at the trained parameters count. Infinite where
    every run of the method failed, 0 where every run of the baseline did, NaN where both did.
    """
    sweeps = dict(list(base.groupby(OF_A_SWEEP)))
    rows = [
        {"task": group["task"].iloc[0], "seed": group["seed"].iloc[0], "effect": _effect(group, sweeps[key], quantity)}
        for key, group in mine.groupby(OF_A_SWEEP)
        if key in sweeps
    ]
    return pd.DataFrame(rows, columns=["task", "seed", "effect"])


def _effect(mine: pd.DataFrame, base: pd.DataFrame, quantity: str) -> float:
    fine = [bool((part["status"] == Status.OK).any()) for part in (mine, base)]
    if not all(fine):
        return {(False, True): math.inf, (True, False): 0.0}.get((fine[0], fine[1]), math.nan)
    return ratio_at_equal_error(_front(mine, quantity), _front(base, quantity))


def sweep_rows(results: Results) -> pd.DataFrame:
    """Return a row a task, method and tolerance: ``task, method, rtol, error, calls``, both with ends, and ``seeds``.

    The error is that at the trained parameters, the calls are those of a backward pass over the training: medians over
    the seeds that ended ``ok``, with ``_least`` and ``_most``.
    """
    ok = with_quantity(results, TRAINING_NFE_BACKWARD)
    ok = ok[ok["status"] == Status.OK]
    keys = ["task", "method", "rtol"]
    values = ok[keys].assign(error=ok[SWEPT_ERROR].astype("float64"), calls=ok[TRAINING_NFE_BACKWARD])
    groups = values.groupby(keys, sort=False)
    told = {
        f"{name}{end}": getattr(groups[name], how)()
        for name in ("error", "calls")
        for end, how in (("", "median"), ("_least", "min"), ("_most", "max"))
    }
    table = pd.DataFrame(told | {"seeds": groups.size()}).reset_index()
    table["place"] = [sort_key(str(method)) for method in table["method"]]
    ordered = table.sort_values(["task", "place", "rtol"], ascending=[True, True, False])
    return ordered.drop(columns="place").reset_index(drop=True)


def ratio_at_equal_error(mine: Floats, base: Floats) -> float:
    """Return the mean ratio of costs over the errors that both curves reach, equally weighted per decade.

    Parameters
    ----------
    mine, base
        Curves ``[point, 2]`` of error and cost, sorted by error, both positive. Between two points the logarithm of
        the cost is linear in that of the error; beyond its ends a curve says nothing.

    Returns
    -------
    float
        The exponential of the mean difference of the logarithms; NaN where no error is common to both.
    """
    if not len(mine) or not len(base):
        return math.nan
    curves = [np.log(curve) for curve in (mine, base)]
    low, high = max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves)
    if low > high:
        return math.nan
    knots = np.unique(np.concatenate([[low, high], *(curve[:, 0] for curve in curves)]))
    knots = knots[(knots >= low) & (knots <= high)]
    first, second = (np.interp(knots, curve[:, 0], curve[:, 1]) for curve in curves)
    difference = first - second
    if len(knots) == 1:
        return float(np.exp(difference[0]))
    area = (np.diff(knots) * (difference[1:] + difference[:-1]) / 2.0).sum()
    return float(np.exp(area / (high - low)))


def _front(runs: pd.DataFrame, quantity: str) -> Floats:
    """Return the curve of error and cost, by error: the finished runs that no other beats in both.

    It ends at the largest measured error, with the cost of a run that is more exact: that is what such an error costs.
    """
    ok = runs[runs["status"] == Status.OK]
    points = pd.DataFrame({"error": ok[SWEPT_ERROR].astype("float64"), "cost": ok[quantity].astype("float64")})
    points = points[(points > 0).all(axis=1) & np.isfinite(points).all(axis=1)].drop_duplicates()
    front = points[pareto_front(points["cost"], points["error"])]
    curve = np.asarray(front.sort_values("error"), dtype=float)
    if len(curve) and points["error"].max() > curve[-1, 0]:
        return np.vstack([curve, [points["error"].max(), curve[-1, 1]]])
    return curve
