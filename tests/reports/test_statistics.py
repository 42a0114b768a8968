"""Statistics against scipy, by hand, and their coverage by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from odegrad.errors import UsageError
from odegrad.reports.statistics import (
    ERROR_RATE,
    MIN_VALUES,
    ends,
    finite,
    holm,
    least_seeds,
    median,
    median_interval,
    sign_test,
)


def test_median_leaves_out_nan_and_none():
    """The median of 1, 2 and 4 is 2, whatever was not measured beside them."""
    assert median([4.0, None, 1.0, math.nan, 2.0]) == 2.0
    assert math.isnan(median([None]))
    assert median([1.0, math.inf, math.inf]) == math.inf
    assert math.isnan(median([-math.inf, math.inf]))
    assert finite([None, 3]).tolist() == [3.0]


@pytest.mark.parametrize(("number", "place", "coverage"), [
    (6, 1, 0.96875), (8, 1, 0.9921875), (9, 2, 0.9609375), (15, 4, 0.96484375), (20, 6, 0.95861053),
])  # fmt: skip
def test_interval_is_that_of_the_tables(number, place, coverage):
    """Places and coverages of the sign test's interval (Conover, 1999, table A3; here by scipy's quantile too)."""
    values = np.random.default_rng(number).permutation(number).astype(float)
    found = median_interval(values)
    assert (found.low, found.high, found.number) == (place - 1.0, float(number - place), number)
    assert found.coverage == pytest.approx(coverage)
    low, high = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    assert (found.low, found.high) == (low, high)


@pytest.mark.parametrize("number", [6, 8, 15])
@pytest.mark.parametrize("draw", ["normal", "standard_cauchy", "standard_exponential"])
def test_interval_covers_what_it_says(number, draw):
    """20,000 samples of each size: the share that holds the median is the exact coverage, heavy tails or not."""
    rng = np.random.default_rng(number)
    values = np.sort(getattr(rng, draw)(size=(20_000, number)), axis=1)
    found = median_interval(np.arange(number))
    middle = math.log(2.0) if draw == "standard_exponential" else 0.0
    held = (values[:, int(found.low)] <= middle) & (middle <= values[:, int(found.high)])
    assert held.mean() == pytest.approx(found.coverage, abs=4 * math.sqrt(0.05 * 0.95 / 20_000))


def test_few_values_have_no_interval():
    """Below six no two values reach 95 %; at a lower level they may."""
    for number in range(MIN_VALUES):
        assert math.isnan(median_interval(range(number)).low)
    assert median_interval(range(MIN_VALUES)).low == 0.0
    assert (median_interval(range(5), level=0.9).low, median_interval(range(5), level=0.9).high) == (0.0, 4.0)


def test_ends_say_what_they_are():
    """An interval with its coverage, rounded down, or the range; of nothing, nothing."""
    assert ends([3.0, 1.0, 2.0], "seeds") == (1.0, 3.0, "range of 3 seeds")
    assert ends([2.0], "seeds") == (2.0, 2.0, "value of one seed")
    assert ends(range(6), "pairs") == (0.0, 5.0, "96 % interval of 6 pairs")
    assert ends(range(15), "seeds") == (3.0, 11.0, "96 % interval of 15 seeds")
    low, high, said = ends([None], "seeds")
    assert math.isnan(low)
    assert math.isnan(high)
    assert said == ""


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_level_is_checked(level):
    """A level in per cent is refused."""
    with pytest.raises(UsageError, match="level: expected a number between 0 and 1"):
        median_interval([1.0, 2.0], level=level)


def test_interval_with_infinities_has_no_nan():
    """Ends are values: infinite where so many are."""
    found = median_interval([math.inf] * 6)
    assert (found.low, found.high) == (math.inf, math.inf)
    found = median_interval([0.5] * 5 + [math.inf])
    assert (found.low, found.high) == (0.5, math.inf)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 3), (5, 8), (8, 8), (40, 60)])
def test_sign_test_is_scipy_s_binomial_test(successes, trials):
    """One-sided, against 1/2; three of three is 1/8."""
    expected = stats.binomtest(successes, trials, 0.5, alternative="greater").pvalue if trials else 1.0
    assert sign_test(successes, trials) == pytest.approx(expected)


def test_holm_by_hand():
    """0.01 x 3, then the larger of that and 0.02 x 2, then of that and 0.03; row by row, and never above 1."""
    assert holm(np.array([0.02, 0.01, 0.03])) == pytest.approx([0.04, 0.03, 0.04])
    assert holm(np.array([[0.6, 0.01], [0.5, 0.9]])) == pytest.approx(np.array([[0.6, 0.02], [1.0, 1.0]]))


@pytest.mark.parametrize("comparisons", [1, 2, 3, 4, 9, 42])
def test_least_seeds_can_decide_and_fewer_cannot(comparisons):
    """With every seed on one side the smallest p-value is 2^-n; never below the size that has an interval."""
    number = least_seeds(comparisons)
    assert sign_test(number, number) <= ERROR_RATE / comparisons
    assert number == MIN_VALUES or sign_test(number - 1, number - 1) > ERROR_RATE / comparisons
