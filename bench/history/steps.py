"""Where a series moved: any change of what is exact; of times, change points of their logarithms.

Change points are those of PELT (Killick, Fearnhead and Eckley, Optimal detection of changepoints with a linear
computational cost, 2012) for changes in the mean, as the library ruptures computes them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import ruptures
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from odegrad.gate.decision import MIN_DELTA

MIN_POINTS = 8
"""Of a series of times in which steps are looked for."""

MIN_SEGMENT = 3
"""Points on either side of a step: one or two slow runs are no step yet."""

MIN_SPREAD = 0.01
"""A smaller standard deviation of log-times is that of a clock that ticks too coarsely, or of too few points."""

PENALTY = 4.0
"""Times ``log n`` and the variance: twice that of the Bayesian information criterion for a level and a place (Yao,
Estimating the number of change-points via Schwarz' criterion, 1988), because times have heavier tails than a normal
distribution. ``tests/bench/history/test_steps.py`` holds what it leads to."""

SHORT_SERIES = 10.0
"""The penalty is larger by ``1 + SHORT_SERIES / n``: the spread is estimated from as few differences."""

OUTLIER = 3.0
"""Standard deviations from the running median, beyond which a point counts as so far only (Hampel, The influence curve
and its role in robust estimation, 1974)."""

WINDOW = 5
"""Points of the running median; at either end of a series it is that of the last whole window."""

PLAUSIBLE = 2 * math.log(20.0)
"""A place of a step is plausible if its likelihood is at least a twentieth of the best one's."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class TimeStep:
    """A step of a series of times: between ``good`` and ``bad``, both indices of points."""

    good: int
    """The last point that surely lies before it."""
    bad: int
    """The first point that surely lies after it."""
    place: int
    """The first point after it, most likely."""
    before: float
    """Median of the segment before it, in seconds."""
    after: float
    """Median of the segment after it, in seconds."""


def spread(logs: Values) -> float:
    """Return the standard deviation of log-times ``[n]`` about their level, from their differences; steps hardly count.

    It is the median absolute deviation of the differences, scaled to that of normal noise, over sqrt(2).
    """
    differences = np.diff(logs)
    deviation = 1.4826 * float(np.median(np.abs(differences - np.median(differences)))) / math.sqrt(2.0)
    return max(deviation, MIN_SPREAD)


def without_outliers(logs: Values, deviation: float) -> Values:
    """Return log-times ``[n]`` in which none is further than ``OUTLIER`` deviations from the running median."""
    middle = median_filter(logs, size=WINDOW)
    half = WINDOW // 2
    middle[:half], middle[-half:] = np.median(logs[:WINDOW]), np.median(logs[-WINDOW:])
    clipped: Values = np.clip(logs, middle - OUTLIER * deviation, middle + OUTLIER * deviation)
    return clipped


def time_steps(seconds: Sequence[float], least: float = MIN_DELTA) -> list[TimeStep]:
    """Return the steps in a series of times, in order.

    Parameters
    ----------
    seconds
        One a commit, above 0; with fewer than ``MIN_POINTS`` there is no step.
    least
        A smaller relative change of the level is none.
    """
    number = len(seconds)
    if number < MIN_POINTS:
        return []
    logs = np.log(np.asarray(seconds, dtype=np.float64))
    deviation = spread(logs)
    scaled = without_outliers(logs, deviation) / deviation
    penalty = PENALTY * math.log(number) * (1.0 + SHORT_SERIES / number)
    search = ruptures.KernelCPD(kernel="linear", min_size=MIN_SEGMENT).fit(scaled.reshape(-1, 1))
    inner = [int(place) for place in search.predict(pen=penalty)[:-1]]
    edges = _large_ones([0, *inner, number], logs, math.log1p(least))
    found = []
    for start, place, stop in zip(edges, edges[1:], edges[2:], strict=False):
        first, last = _plausible(scaled[start:stop], place - start)
        levels = [math.exp(float(np.median(logs[a:b]))) for a, b in ((start, place), (place, stop))]
        found.append(TimeStep(start + first - 1, start + last, place, *levels))
    return found


def _large_ones(edges: list[int], logs: Values, least: float) -> list[int]:
    """Return the edges of segments whose levels differ by ``least``; the smallest difference is given up first."""
    edges = list(edges)
    while len(edges) > 2:
        segments = [logs[a:b] for a, b in pairwise(edges)]
        sizes = [_difference(old, new) for old, new in pairwise(segments)]
        smallest = int(np.argmin(sizes))
        if sizes[smallest] >= least:
            break
        del edges[smallest + 1]
    return edges


def _difference(old: Values, new: Values) -> float:
    """Return how far the levels of two segments are apart; 0 where too few points of one are nearer to its own."""
    levels = float(np.median(old)), float(np.median(new))
    sign, middle = math.copysign(1.0, levels[1] - levels[0]), (levels[0] + levels[1]) / 2.0
    own = min(int((sign * (old - middle) < 0.0).sum()), int((sign * (new - middle) > 0.0).sum()))
    return abs(levels[1] - levels[0]) if own >= MIN_SEGMENT else 0.0


def _plausible(scaled: Values, best: int) -> tuple[int, int]:
    """Return the first and the last plausible place of the one step in ``scaled`` [n], in standard deviations."""
    number = len(scaled)
    places = np.arange(1, number)
    left = np.cumsum(scaled)[:-1]
    right = float(scaled.sum()) - left
    gain = left**2 / places + right**2 / (number - places)  # less the sum of squares, the same for every place
    plausible = places[gain >= gain[best - 1] - PLAUSIBLE]
    plausible = plausible[(plausible >= 1) & (plausible <= number - 1)]
    return int(min(plausible.min(), best)), int(max(plausible.max(), best))


def exact_steps(values: Sequence[object], moved: Callable[[int, int], bool]) -> list[int]:
    """Return the indices at which a series is no longer where its last step, or its start, left it.

    ``moved(i, j)`` says whether value ``j`` differs from value ``i``; comparing with where the last step left the
    series, not with the point before, keeps changes within a band from adding up.
    """
    found, anchor = [], 0
    for index in range(1, len(values)):
        if values[index] == values[anchor] or not moved(anchor, index):
            continue
        found.append(index)
        anchor = index
    return found


def level_moved(
    before: Sequence[float], after: Sequence[float], deviation: float, least: float = MIN_DELTA
) -> tuple[float, float] | None:
    """Return two levels of times, in seconds, if they differ by ``least`` and by more than noise; otherwise None.

    Parameters
    ----------
    before, after
        A few times of each.
    deviation
        Standard deviation of a log-time.
    least
        A smaller relative difference is none.
    """
    old, new = (float(np.median(np.log(side))) for side in (before, after))
    # the median of k normal values deviates by sqrt(pi / 2 / k); 3.3 standard errors are 1 in 1000, both sides
    noise = 3.3 * deviation * math.sqrt(math.pi / 2.0 * (1.0 / len(before) + 1.0 / len(after)))
    if abs(new - old) < max(math.log1p(least), noise):
        return None
    return math.exp(old), math.exp(new)
