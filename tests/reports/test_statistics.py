"""Statistics against scipy and by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from odegrad.errors import UsageError
from odegrad.reports.statistics import Interval, bootstrap_interval, finite, median


def test_median_leaves_out_nan_and_none():
    """The median of 1, 2 and 4 is 2, whatever was not measured beside them."""
    assert median([4.0, None, 1.0, math.nan, 2.0]) == 2.0
    assert math.isnan(median([None]))
    assert median([1.0, math.inf, math.inf]) == math.inf
    assert math.isnan(median([-math.inf, math.inf]))
    assert finite([None, 3]).tolist() == [3.0]


@pytest.mark.parametrize("count", [3, 8, 30])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_interval_is_that_of_scipy(count, level):
    """The percentile interval of the median agrees with scipy's within the noise of resampling."""
    values = np.random.default_rng(count).normal(10.0, 2.0, count)
    ours = bootstrap_interval(values, seed=1, level=level, resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.median, n_resamples=20_000, method="percentile", confidence_level=level, rng=2
    ).confidence_interval
    spread = np.ptp(values)
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * spread)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * spread)


def test_interval_comes_from_its_seed():
    """The same seed gives the same interval; the interval holds the median."""
    values = [0.1, 0.5, 0.3, 0.9, 0.7]
    interval = bootstrap_interval(values, seed=3, resamples=50)
    assert interval == bootstrap_interval(values, seed=3, resamples=50)
    assert interval.low <= median(values) <= interval.high


def test_interval_of_few_values():
    """One value is its own interval, two span it, none gives NaN."""
    assert bootstrap_interval([2.0]) == bootstrap_interval([2.0, math.nan])
    assert (bootstrap_interval([2.0]).low, bootstrap_interval([2.0]).high) == (2.0, 2.0)
    assert (bootstrap_interval([1.0, 3.0]).low, bootstrap_interval([1.0, 3.0]).high) == (1.0, 3.0)
    assert math.isnan(bootstrap_interval([]).low)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_level_is_checked(level):
    """A level in per cent is refused."""
    with pytest.raises(UsageError, match="level: expected a number between 0 and 1"):
        bootstrap_interval([1.0, 2.0], level=level)


def test_interval_with_infinities_has_no_nan():
    """Ends are drawn medians: all infinite, or from a finite value to infinity; opposite ones reach both ways."""
    assert bootstrap_interval([math.inf] * 3) == Interval(math.inf, math.inf)
    assert bootstrap_interval([0.5, 0.6, math.inf]) == Interval(0.5, math.inf)
    assert bootstrap_interval([-math.inf, 0.0, math.inf]) == Interval(-math.inf, math.inf)
