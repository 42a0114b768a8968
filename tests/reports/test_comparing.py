"""Statistics that compare methods: against scipy, by hand, and properties that must hold for any data."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from odegrad.errors import UsageError
from odegrad.records.record import Status
from odegrad.reports import comparing
from odegrad.reports.summary import Results

INF = math.inf


def test_ratio_is_paired_by_block(record, frame_of):
    """Ratios 2, 3 and 4 have the median 3; a seed or task of one method alone is no pair."""
    runs = [record(seed=s, train_seconds=1.0 + s) for s in range(4)]
    runs += [record(method="adjoint", seed=s, train_seconds=(2.0 + s) * (1.0 + s)) for s in range(3)]
    runs += [record("circles", "adjoint", train_seconds=99.0)]
    ratio = comparing.paired_ratio(frame_of(runs), "train_seconds", "adjoint", "naive")
    assert ratio.median == 3.0
    assert math.isnan(ratio.interval.low)
    assert (ratio.n_ok, ratio.n) == (3, 3)


def test_failed_runs_stay_in_the_ratio(record, frame_of):
    """A method that failed in two of three blocks is infinitely dear in the median; a failed pair says nothing."""
    runs = [record(seed=s, train_seconds=1.0) for s in range(3)]
    runs += [record(method="adjoint", seed=0, train_seconds=2.0)]
    runs += [record(method="adjoint", seed=s, status=Status.DIVERGED, message="x") for s in (1, 2, 3)]
    runs += [record(seed=3, status=Status.TIMEOUT, message="x")]
    ratio = comparing.paired_ratio(frame_of(runs), "train_seconds", "adjoint", "naive")
    assert (ratio.median, ratio.n_ok, ratio.n) == (INF, 1, 4)
    assert comparing.paired_ratio(frame_of(runs), "train_seconds", "naive", "adjoint").median == 0.0


def test_ratio_without_a_common_block(record, frame_of):
    """No pair, no number."""
    ratio = comparing.paired_ratio(frame_of([record()]), "train_seconds", "adjoint", "naive")
    assert math.isnan(ratio.median)
    assert ratio.n == 0


def test_ratio_interval_is_that_of_scipy(record, frame_of):
    """The exact interval over blocks is scipy's of the same ratios."""
    values = np.random.default_rng(0).lognormal(0.5, 0.3, 20)
    runs = [record(seed=s, train_seconds=1.0) for s in range(20)]
    runs += [record(method="adjoint", seed=s, train_seconds=float(v)) for s, v in enumerate(values)]
    ours = comparing.paired_ratio(frame_of(runs), "train_seconds", "adjoint", "naive").interval
    theirs = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    assert (ours.low, ours.high) == (theirs.low, theirs.high)


def test_interquartile_mean_by_hand_and_scipy():
    """Of 0..7 the middle four are 2..5; infinities beyond the quarter do not matter; scipy agrees."""
    assert comparing.interquartile_mean([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]) == 3.5
    assert comparing.interquartile_mean([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, INF]]) == 3.5
    scores = np.random.default_rng(0).normal(size=(5, 9))
    assert comparing.interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))


def test_interquartile_interval_resamples_within_tasks():
    """Tasks far apart whose seeds agree have no spread: only a stratified bootstrap says so."""
    scores = [[0.0] * 6, [10.0] * 6, [20.0] * 6, [30.0] * 6]
    assert comparing.interquartile_interval(scores) == comparing.Interval(15.0, 15.0)


def test_few_seeds_of_a_task_have_no_interquartile_interval():
    """From five of one task the bootstrap would hold the mean too seldom."""
    assert math.isnan(comparing.interquartile_interval([[0.0, 1.0] * 5, [1.0] * 5]).low)


@pytest.mark.parametrize("tasks", [1, 4, 10])
def test_interquartile_interval_covers_what_is_said(tasks):
    """Six seeds of each task, normal: it holds the mean, here 0, in 85 to 95 % of 300 samples."""
    rng = np.random.default_rng(tasks)
    held = 0
    for _ in range(300):
        interval = comparing.interquartile_interval(list(rng.normal(size=(tasks, 6))), resamples=300)
        held += interval.low <= 0.0 <= interval.high
    assert 0.85 <= held / 300 <= 0.95


def test_interquartile_interval_is_that_of_scipy():
    """Two tasks as two samples of scipy's bootstrap, which resamples each within itself."""
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.0, 1.0, 12), rng.normal(2.0, 1.0, 12)
    ours = comparing.interquartile_interval([first, second], seed=1, resamples=5000)

    def statistic(a, b, axis):
        return stats.trim_mean(np.concatenate([a, b], axis=axis), 0.25, axis=axis)

    theirs = stats.bootstrap((first, second), statistic, n_resamples=5000, method="percentile", rng=2)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.06)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.06)


@pytest.mark.parametrize("scores", [[], [[]], [[1.0, math.nan]]])
def test_missing_scores_are_refused(scores):
    """A failed run is not left out silently."""
    with pytest.raises(UsageError, match="give failed runs the worst"):
        comparing.interquartile_interval(scores)


def test_profile_by_hand():
    """Dolan and More's definition on four problems, one of which nobody solved and one of which b failed on."""
    table = pd.DataFrame({"a": [1.0, 4.0, 2.0, INF], "b": [2.0, 2.0, math.nan, INF]})
    taus, shares = comparing.performance_profile(table)
    assert taus.tolist() == [1.0, 2.0]
    assert shares["a"].tolist() == [0.5, 0.75]
    assert shares["b"].tolist() == [0.25, 0.5]


def test_profile_is_the_distribution_of_ratios():
    """With every problem solved, the profile is scipy's empirical distribution function of the ratios."""
    costs = np.random.default_rng(1).lognormal(size=(30, 3))
    taus, shares = comparing.performance_profile(pd.DataFrame(costs, columns=list("abc")))
    ratios = costs / costs.min(axis=1, keepdims=True)
    for i, name in enumerate("abc"):
        np.testing.assert_allclose(shares[name], stats.ecdf(ratios[:, i]).cdf.evaluate(taus))


cost = st.one_of(st.floats(0.01, 100.0), st.just(INF))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(cost, cost, cost), min_size=1, max_size=12))
def test_profiles_rise_to_the_share_solved(rows):
    """For any costs: shares rise, end at the share solved, and the firsts at ratio 1 cover every solved problem."""
    table = pd.DataFrame(rows, columns=list("abc"))
    _, shares = comparing.performance_profile(table)
    assert (shares.diff().dropna() >= 0).all(axis=None)
    np.testing.assert_allclose(shares.iloc[-1], np.isfinite(table).mean())
    assert shares.iloc[0].sum() >= np.isfinite(table).any(axis=1).mean() - 1e-12
    scaled, _ = comparing.performance_profile(table * 4.0)
    np.testing.assert_allclose(scaled, comparing.performance_profile(table)[0])


def test_ranks_are_those_of_scipy():
    """Mean ranks with ties; failures share the last places."""
    table = pd.DataFrame({"a": [1.0, 5.0], "b": [1.0, math.nan], "c": [3.0, INF]})
    assert comparing.ranks(table).tolist() == [1.25, 2.0, 2.75]
    costs = np.random.default_rng(0).integers(0, 5, (10, 4)).astype(float)
    expected = stats.rankdata(costs, axis=1).mean(axis=0)
    np.testing.assert_allclose(comparing.ranks(pd.DataFrame(costs)), expected)


def test_time_to_target(record, frame_of):
    """The first evaluation at or beyond the target counts, whatever follows; never reached and failed are infinity."""
    trace = {"trace_iteration": [0, 10, 20, 30], "trace_seconds": [0.0, 1.0, 2.0, 3.0], "metric_target": 0.8}
    runs = [
        record(seed=0, trace_metric=[0.1, 0.8, 0.7, 0.9], **trace),
        record(seed=1, trace_metric=[0.1, 0.2, 0.7, 0.79], **trace),
        record(seed=2, status=Status.DIVERGED, message="x"),
        record("circles", trace_metric=[5.0, 4.0, 3.5, 3.0], **(trace | {"metric_target": 3.5})),
        record("moons", trace_metric=[0.0, 1.0, 1.0, 1.0], **(trace | {"metric_target": None})),
    ]
    table = comparing.time_to_target(frame_of(runs))
    assert table["target_seconds"].tolist()[:4] == [1.0, INF, INF, 2.0]
    assert table["target_iterations"].tolist()[:4] == [10.0, INF, INF, 20.0]
    assert math.isnan(table["target_seconds"].iloc[4])
    assert table["target"].tolist()[:4] == [0.8, 0.8, 0.8, 3.5]


def test_target_of_a_baseline(record, frame_of):
    """The best of the baseline's median over seeds, in the direction of the metric."""
    runs = [record(seed=s, trace_metric=[0.1, 0.5 + 0.1 * s, 0.4]) for s in range(3)]
    runs += [record("circles", trace_metric=[5.0, 3.0, 4.0]), record(method="adjoint", trace_metric=[1.0, 1.0, 1.0])]
    frame = frame_of(runs)
    assert comparing.baseline_targets(frame, "naive") == {"circles": 3.0, "digits": 0.6}
    reached = comparing.time_to_target(frame, {"digits": 1.0})
    assert reached[reached["method"] == "adjoint"]["target_iterations"].tolist() == [0.0]


def test_cost_table_has_failures_as_infinity(record, frame_of):
    """Failed is infinite, not tried is NaN, trials that choose settings are not there."""
    runs = [record(), record(method="adjoint", status=Status.ERROR, message="x"), record(seed=1)]
    runs += [record(seed=2, settings={"stage": "tuning"})]
    table = comparing.cost_table(Results.of(frame_of(runs)).cells, "peak_bytes")
    assert table["adjoint"].tolist()[0] == INF
    assert math.isnan(table["adjoint"].tolist()[1])
    assert len(table) == 2


def test_a_failed_run_has_the_target_of_its_size(record, frame_of):
    """Sizes have targets of their own, and runs of unlike sizes are no pair."""
    sizes = {"tiny": 0.8, "default": 0.9}
    runs = [record(settings={"size": size}, metric_target=target) for size, target in sizes.items()]
    runs += [record(method="adjoint", status=Status.ERROR, message="x", settings={"size": size}) for size in sizes]
    assert comparing.time_to_target(frame_of(runs))["target"].tolist() == [0.8, 0.9, 0.8, 0.9]
    unlike = [runs[0], record(method="adjoint", settings={"size": "default"})]
    assert comparing.paired_ratio(frame_of(unlike), "train_seconds", "adjoint", "naive").n == 0
