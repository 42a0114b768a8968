"""Libraries side by side: what a gradient costs in each at equal gradient error, and when compiling pays.

A tolerance means another error in every library, so costs are compared along a sweep over tolerances, where both are
as exact. The yardstick is the first method of another library in the order of methods.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from odegrad.records.record import Status
from odegrad.reports.equal_error import OF_A_SWEEP, RatioBound, bounded_ratios
from odegrad.reports.names import kind_of, sort_key
from odegrad.reports.statistics import ERROR_RATE, MIN_VALUES, ends, median, sign_test
from odegrad.reports.summary import Results

OWN_LIBRARY = "odegrad"
GRADIENT_SECONDS = "gradient_seconds"
"""Seconds of one forward and one backward pass."""
ERROR = "gradient_relative_error"


@dataclass(frozen=True)
class Contrast:
    """A method on one kind of task, beside the yardstick, at equal gradient error."""

    kind: str
    tasks: tuple[str, ...]
    """Those on which any two methods could be compared."""
    method: str
    library: str
    baseline: str
    ratio: float
    """Median over sweeps (a task and a seed) of its seconds per gradient over the baseline's; NaN without a sweep."""
    bound: str
    """``at most`` or ``at least`` where it bounds the ratio at equal error, ``about`` where some sweeps do either."""
    low: float
    high: float
    said: str
    """What ``low`` and ``high`` are."""
    faster: int
    """Sweeps in which it surely takes less time than the baseline, bounds included."""
    slower: int
    sweeps: int
    """Sweeps with a ratio or a bound of it."""
    tried: int
    """Sweeps that both tried."""
    seconds: float
    """Of one gradient at equal error: the ratio times the baseline's median."""
    compile_seconds: float
    """Median over runs; NaN for what compiles nothing."""
    pays_from: float
    """Iterations from which compiling is paid back, against the fastest method that compiles nothing.

    Infinite if it never is, NaN where there is nothing to tell.
    """

    @property
    def decided(self) -> bool:
        """Return whether the exact sign test decides, by itself, on which side of the baseline it is."""
        most = max(self.faster, self.slower)
        return self.sweeps >= MIN_VALUES and bool(2.0 * sign_test(most, self.sweeps) <= ERROR_RATE)


def contrasts(results: Results) -> list[Contrast]:
    """Return every method on every kind of task, by kind and then by ratio; empty without a sweep over two libraries.

    Only sweeps with at least two tolerances count. Where a method and the baseline have no gradient error in common,
    the cheapest cost of the more exact one bounds the ratio.
    """
    return results.once(_contrasts)


def _contrasts(results: Results) -> list[Contrast]:
    cells = results.cells
    seconds = cells["forward_seconds"].astype("float64") + cells["backward_seconds"].astype("float64")
    library = cells["library"].fillna("").astype(str).replace("", OWN_LIBRARY)
    cells = cells.assign(**{GRADIENT_SECONDS: seconds}, kind=cells["task"].map(kind_of), library=library)
    swept = cells.groupby([*OF_A_SWEEP, "method"])["rtol"].transform("nunique") > 1
    cells = cells[swept & (cells[GRADIENT_SECONDS].notna() | (cells["status"] != Status.OK))]
    found = []
    for kind, rows in cells.groupby("kind", sort=False):
        peers = sorted(set(rows["method"][rows["library"] != OWN_LIBRARY]), key=sort_key)
        if peers and len(set(rows["library"])) > 1:
            found += _of_kind(str(kind), rows, peers[0])
    return found


def _of_kind(kind: str, rows: pd.DataFrame, baseline: str) -> list[Contrast]:
    base = rows[rows["method"] == baseline]
    usual = median(base[GRADIENT_SECONDS][base["status"] == Status.OK])
    of_method = {str(method): mine for method, mine in rows.groupby("method", sort=False)}
    effects = {method: bounded_ratios(mine, base, GRADIENT_SECONDS, ERROR) for method, mine in of_method.items()}
    tasks = tuple(sorted({str(task) for each in effects.values() for task in each["task"]}))
    fastest = min(
        (median(effects[method]["effect"]) for method, mine in of_method.items() if not _compiles(mine)),
        key=lambda ratio: math.inf if math.isnan(ratio) else ratio,
        default=math.nan,
    )
    made = [
        _contrast(kind, tasks, mine, baseline, effects[method], usual, fastest) for method, mine in of_method.items()
    ]
    return sorted(made, key=lambda each: (math.inf if math.isnan(each.ratio) else each.ratio, sort_key(each.method)))


def _compiles(runs: pd.DataFrame) -> bool:
    return bool(runs["compile_seconds"].notna().any())


def _contrast(
    kind: str,
    tasks: tuple[str, ...],
    runs: pd.DataFrame,
    baseline: str,
    found: pd.DataFrame,
    usual: float,
    fastest: float,
) -> Contrast:
    known = found.dropna(subset="effect")
    effects, bounds = known["effect"].to_numpy(dtype=float), known["bound"]
    low, high, said = ends(effects, "sweeps")
    ratio = median(effects)
    compiling = median(runs["compile_seconds"]) if _compiles(runs) else math.nan
    saved = (fastest - ratio) * usual
    pays = math.nan if math.isnan(saved) or math.isnan(compiling) else compiling / saved if saved > 0 else math.inf
    others = [str(bound) for bound in dict.fromkeys(bounds) if bound != RatioBound.EQUAL]
    return Contrast(
        kind, tasks, str(runs["method"].iloc[0]), str(runs["library"].iloc[0]), baseline, ratio,
        "about" if len(others) > 1 else "".join(others), low, high, said,
        int(((effects < 1.0) & (bounds != RatioBound.AT_LEAST)).sum()),
        int(((effects > 1.0) & (bounds != RatioBound.AT_MOST)).sum()),
        effects.size, len(found), ratio * usual, compiling, float(np.ceil(pays)) if math.isfinite(pays) else pays,
    )  # fmt: skip
