"""The numbers that a claim is decided from: one a pair of runs, or one a seed, failures as infinite costs."""

import numpy as np
import pandas as pd

from odegrad.record import Status
from odegrad.reports.comparing import BLOCK, Floats, cost_ratios, costs, paired_costs
from odegrad.reports.papers.claim import Arm, Claim, Statistic
from odegrad.reports.papers.quantity import with_quantity
from odegrad.reports.summary import Results

MINE, BASE = "claimed", "baseline"
POLICY = "t1_policy"
"""The option that makes a run train its end time: an arm that does not name it means runs without it."""

LEAST_RANGE = 2.0
"""By what factor the steps must range before a slope in them is taken."""


def effects(claim: Claim, results: Results) -> pd.DataFrame:
    """Return ``task, seed, effect``, one row a pair (a seed, of statistics without a baseline) on the claim's tasks.

    A failed run costs infinity: against a finished baseline its effect is infinitely bad, and the other way round. NaN
    where both failed or never reached the target: that says nothing.
    """
    every = with_quantity(results, claim.quantity)
    every = every[every["task"].isin(claim.tasks)]
    mine = every[matches(every, claim.method)]
    if claim.baseline is not None:
        base = every[matches(every, claim.baseline)]
        both = pd.concat([mine.assign(method=MINE), base.assign(method=BASE)])
        pairs = paired_costs(both, claim.quantity, MINE, BASE)
        values = cost_ratios(pairs) if claim.statistic is Statistic.RATIO else relative_changes(pairs)
        return pairs.index.to_frame(index=False)[["task", "seed"]].assign(effect=values)
    if claim.statistic is Statistic.EXPONENT:
        return _exponents(mine, claim.quantity)
    return mine[["task", "seed"]].assign(effect=costs(mine, claim.quantity)).reset_index(drop=True)


def matches(cells: pd.DataFrame, arm: Arm) -> pd.Series:
    """Return which runs belong to ``arm``."""
    wanted = {POLICY: ""} | dict(arm.optimizer_options)
    fits = cells["gradient"].eq(arm.gradient).fillna(False).astype(bool)
    if arm.optimizer:
        fits &= cells["optimizer"].eq(arm.optimizer).fillna(False).astype(bool)
    options = [{POLICY: ""} | (each if isinstance(each, dict) else {}) for each in cells["optimizer_options"]]
    fitting = [all(each.get(k) == v for k, v in wanted.items()) for each in options]
    return fits & pd.Series(fitting, cells.index, dtype=bool)


def relative_changes(pairs: pd.DataFrame) -> Floats:
    """Return ``(mine - base) / |base|`` of ``paired_costs``, ``[n]``: infinite where one of them is, NaN where both."""
    mine, base = pairs["mine"].to_numpy(dtype=float), pairs["base"].to_numpy(dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = mine - base  # inf - inf is NaN
        relative = np.where(difference == 0.0, 0.0, difference / np.abs(base))
    return np.where(np.isinf(base), difference, relative)


def _exponents(mine: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Return the slope over the runs that differ in their steps alone: of one block without its tolerances."""
    keys = [name for name in BLOCK if name not in {"rtol", "atol"}]
    rows = [
        {"task": group["task"].iloc[0], "seed": group["seed"].iloc[0], "effect": _exponent(group, quantity)}
        for _, group in mine.groupby(keys)
    ]
    return pd.DataFrame(rows, columns=["task", "seed", "effect"])


def _exponent(group: pd.DataFrame, quantity: str) -> float:
    """Return the least-squares slope of log quantity against log steps; infinite if some of the runs failed."""
    ok = group[group["status"] == Status.OK]
    known = ok[["accepted_steps", quantity]].astype("float64").dropna()
    steps, values = known["accepted_steps"].to_numpy(), known[quantity].to_numpy()
    if len(known) and len(ok) < len(group):
        return np.inf
    if len(known) < 2 or min(steps.min(), values.min()) <= 0 or steps.max() < LEAST_RANGE * steps.min():
        return np.nan
    return float(np.polyfit(np.log(steps), np.log(values), 1)[0])
