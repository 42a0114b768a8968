"""Costs at equal gradient error: what one method costs over another where both are as exact, over a sweep."""

import math
from collections.abc import Callable
from enum import StrEnum

import numpy as np
import pandas as pd

from odegrad.records.record import Status
from odegrad.reports.comparing import BLOCK
from odegrad.reports.statistics import Floats

OF_A_SWEEP = [name for name in BLOCK if name not in {"rtol", "atol"}]
"""What the runs of one sweep share."""


def pareto_front(costs: pd.Series, errors: pd.Series) -> pd.Series:
    """Return which points no other point beats: none is as cheap and as exact, and better in one of the two."""
    order = pd.DataFrame({"cost": costs, "error": errors}).sort_values(["cost", "error"])
    least = order["error"].cummin().shift(fill_value=math.inf)
    best = order.groupby("cost")["error"].transform("min")
    before = least.groupby(order["cost"]).transform("first")  # the least error of all that are cheaper
    return ((order["error"] == best) & (order["error"] < before)).reindex(costs.index)


class RatioBound(StrEnum):
    """What a ratio says of the one at equal error."""

    EQUAL = ""
    """It is that."""
    AT_MOST = "at most"
    """The method is more exact at each tolerance, and would be cheaper at a looser one."""
    AT_LEAST = "at least"
    """The baseline is."""


def ratios_at_equal_error(mine: pd.DataFrame, base: pd.DataFrame, quantity: str, error: str) -> pd.DataFrame:
    """Return ``task, seed, effect`` of every sweep that both tried: ``ratio_at_equal_error``.

    ``mine, base`` are cells with the columns ``quantity`` and ``error``, the gradient error that counts. Infinite where
    every run of the method failed, 0 where every run of the baseline did, NaN where both did.
    """
    return _over_sweeps(mine, base, lambda a, b: (_effect(a, b, quantity, error),), ["effect"])


def _over_sweeps(
    mine: pd.DataFrame,
    base: pd.DataFrame,
    effect: Callable[[pd.DataFrame, pd.DataFrame], tuple[object, ...]],
    names: list[str],
) -> pd.DataFrame:
    """Return ``task, seed`` and what ``effect`` makes of every sweep that both tried."""
    sweeps = dict(list(base.groupby(OF_A_SWEEP)))
    rows = [
        (group["task"].iloc[0], group["seed"].iloc[0], *effect(group, sweeps[key]))
        for key, group in mine.groupby(OF_A_SWEEP)
        if key in sweeps
    ]
    return pd.DataFrame(rows, columns=["task", "seed", *names])


def _of_failures(mine: pd.DataFrame, base: pd.DataFrame) -> float | None:
    """Return the ratio where every run of either failed; None if one of each ended ``ok``."""
    fine = [bool((part["status"] == Status.OK).any()) for part in (mine, base)]
    return None if all(fine) else {(False, True): math.inf, (True, False): 0.0}.get((fine[0], fine[1]), math.nan)


def _effect(mine: pd.DataFrame, base: pd.DataFrame, quantity: str, error: str) -> float:
    failed = _of_failures(mine, base)
    if failed is not None:
        return failed
    return ratio_at_equal_error(_front(mine, quantity, error), _front(base, quantity, error))


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


def bounded_ratio(mine: Floats, base: Floats) -> tuple[float, RatioBound]:
    """Return ``ratio_at_equal_error``, and where no error is common to both what bounds it.

    The more exact one reaches the other's errors at no more than its cheapest cost: the ratio to that, or of that, is
    the mean over the other's errors. NaN where a curve is empty.
    """
    ratio = ratio_at_equal_error(mine, base)
    if not math.isnan(ratio) or not len(mine) or not len(base):
        return ratio, RatioBound.EQUAL
    if mine[-1, 0] < base[0, 0]:
        return ratio_at_equal_error(_flat(mine, base), base), RatioBound.AT_MOST
    return ratio_at_equal_error(mine, _flat(base, mine)), RatioBound.AT_LEAST


def _flat(exact: Floats, other: Floats) -> Floats:
    """Return the curve over the errors of ``other`` at the cheapest cost of ``exact``."""
    return np.array([[error, exact[:, 1].min()] for error in other[[0, -1], 0]])


def bounded_ratios(mine: pd.DataFrame, base: pd.DataFrame, quantity: str, error: str) -> pd.DataFrame:
    """Return ``task, seed, effect, bound`` of every sweep that both tried: ``bounded_ratio``, and failures as above."""
    return _over_sweeps(mine, base, lambda a, b: _bounded_effect(a, b, quantity, error), ["effect", "bound"])


def _bounded_effect(mine: pd.DataFrame, base: pd.DataFrame, quantity: str, error: str) -> tuple[float, RatioBound]:
    failed = _of_failures(mine, base)
    if failed is not None:
        return failed, RatioBound.EQUAL
    return bounded_ratio(_front(mine, quantity, error), _front(base, quantity, error))


def _front(runs: pd.DataFrame, quantity: str, error: str) -> Floats:
    """Return the curve of error and cost, by error: the finished runs that no other beats in both.

    It ends at the largest measured error, with the cost of a run that is more exact: that is what such an error costs.
    """
    ok = runs[runs["status"] == Status.OK]
    points = pd.DataFrame({"error": ok[error].astype("float64"), "cost": ok[quantity].astype("float64")})
    points = points[(points > 0).all(axis=1) & np.isfinite(points).all(axis=1)].drop_duplicates()
    front = points[pareto_front(points["cost"], points["error"])]
    curve = np.asarray(front.sort_values("error"), dtype=float)
    if len(curve) and points["error"].max() > curve[-1, 0]:
        return np.vstack([curve, [points["error"].max(), curve[-1, 1]]])
    return curve
