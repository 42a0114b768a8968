"""The numbers that a claim is decided from: one a seed and task, failures as infinite costs."""

import numpy as np
import pandas as pd

from odegrad.records.record import Status
from odegrad.reports.comparing import BLOCK, cost_ratios, costs, paired_costs, time_to_target
from odegrad.reports.equal_error import ratios_at_equal_error
from odegrad.reports.papers.claim import Arm, Claim, Statistic
from odegrad.reports.papers.quantity import BASELINE_TARGET_SECONDS, SWEPT_ERROR, with_quantity
from odegrad.reports.statistics import Floats
from odegrad.reports.summary import Results

MINE, BASE = "claimed", "baseline"
BOTH_SOLVERS = "each arm's"
"""The solver of a pair whose arms name theirs."""
POLICY = "t1_policy"
"""The option that makes a run train its end time: an arm that does not name it means runs without it."""

MIN_RANGE = 2.0
"""By what factor the steps must range before a slope in them is taken."""


def effects(claim: Claim, results: Results) -> pd.DataFrame:
    """Return ``task, seed, effect``, one row a pair, sweep or run of a seed on the claim's tasks.

    Pairs that race to the baseline's final metric have it as ``target``.
    A failed run costs infinity: against a finished baseline its effect is infinitely bad, and the other way round. NaN
    where both failed or never reached the target: that says nothing.
    """
    every = _to_baseline(claim, results) if racing(claim) else with_quantity(results, claim.quantity)
    every = every[every["task"].isin(claim.tasks)]
    mine = every[matches(every, claim.method)]
    if claim.baseline is not None:
        base = every[matches(every, claim.baseline)]
        if claim.method.solver:
            # What the arms differ in is not what their runs must share.
            mine, base = (side.assign(solver=BOTH_SOLVERS) for side in (mine, base))
        if claim.statistic is Statistic.EQUAL_ERROR:
            return ratios_at_equal_error(mine, base, claim.quantity, SWEPT_ERROR)
        both = pd.concat([mine.assign(method=MINE), base.assign(method=BASE)])
        pairs = paired_costs(both, claim.quantity, MINE, BASE)
        values = cost_ratios(pairs) if claim.statistic is Statistic.RATIO else relative_changes(pairs)
        rows = pairs.index.to_frame(index=False).assign(effect=values)
        return rows.assign(target=targets_of(rows, base)) if racing(claim) else rows
    if claim.statistic is Statistic.EXPONENT:
        return _exponents(mine, claim.quantity)
    return mine[["task", "seed"]].assign(effect=costs(mine, claim.quantity)).reset_index(drop=True)


def matches(cells: pd.DataFrame, arm: Arm) -> pd.Series:
    """Return which runs belong to ``arm``."""
    wanted = {POLICY: ""} | dict(arm.optimizer_options)
    fits = cells["gradient"].eq(arm.gradient).fillna(False).astype(bool)
    if arm.solver:
        fits &= cells["solver"].eq(arm.solver).fillna(False).astype(bool)
    if arm.dtype:
        fits &= cells["dtype"].eq(arm.dtype).fillna(False).astype(bool)
        fits &= cells["precision"].fillna("").eq(arm.precision).astype(bool)
    if arm.optimizer:
        fits &= cells["optimizer"].eq(arm.optimizer).fillna(False).astype(bool)
    given = [dict(each) if isinstance(each, dict) else {} for each in cells["gradient_options"]]
    fits &= pd.Series([each == dict(arm.gradient_options) for each in given], cells.index, dtype=bool)
    options = [{POLICY: ""} | (each if isinstance(each, dict) else {}) for each in cells["optimizer_options"]]
    fitting = [all(each.get(k) == v for k, v in wanted.items()) for each in options]
    return fits & pd.Series(fitting, cells.index, dtype=bool)


def racing(claim: Claim) -> bool:
    """Return whether ``claim`` is about the time to the baseline's final metric."""
    return claim.quantity == BASELINE_TARGET_SECONDS and claim.baseline is not None


def _to_baseline(claim: Claim, results: Results) -> pd.DataFrame:
    """Return the cells with ``target``, the baseline's final metric in the same block, and the seconds to it.

    Against a baseline that failed every metric will do: the method's time is then that of its first evaluation.
    """
    cells = results.cells
    base = cells[matches(cells, claim.baseline)] if claim.baseline else cells.iloc[:0]
    blocks = pd.MultiIndex.from_frame(cells[BLOCK])
    tried = blocks.isin(pd.MultiIndex.from_frame(base[BLOCK]))
    upwards = cells["metric_higher_is_better"].astype("boolean")
    upwards = upwards.groupby(cells["task"]).transform("first").fillna(False).astype(bool)
    worse = np.where(upwards, -1.0, 1.0)
    final = finals(base).reindex(blocks).to_numpy(dtype=float)
    target = np.where(np.isnan(final), worse * np.inf, final + worse * claim.tolerance * np.abs(final))
    every = time_to_target(results, pd.Series(np.where(tried, target, np.nan), cells.index))
    return every.assign(**{claim.quantity: every["target_seconds"]})


def finals(base: pd.DataFrame) -> pd.Series:
    """Return the final metric of the runs of ``base`` that ended ``ok``, the median in each ``BLOCK``."""
    ok = base[base["status"] == Status.OK]
    return ok["metric_value"].astype("float64").groupby([ok[name] for name in BLOCK]).median()


def targets_of(rows: pd.DataFrame, base: pd.DataFrame) -> Floats:
    """Return the baseline's target of each pair, ``[n]``; NaN where the baseline failed."""
    known = base[base["status"] == Status.OK].drop_duplicates(BLOCK).set_index(BLOCK)["target"]
    return np.asarray(known.reindex(pd.MultiIndex.from_frame(rows[BLOCK])), dtype=float)


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
    if len(known) < 2 or min(steps.min(), values.min()) <= 0 or steps.max() < MIN_RANGE * steps.min():
        return np.nan
    return float(np.polyfit(np.log(steps), np.log(values), 1)[0])
