"""The leaderboard: who beats whom, ranges of ranks, machines apart, one page that asks for no other."""

import dataclasses
import itertools
import math
import re

import numpy as np
import pytest
from scipy.stats import binomtest

from odegrad.errors import ResultsError, UsageError
from odegrad.records.record import Status
from odegrad.reports.leaderboard.page import page, table, write
from odegrad.reports.leaderboard.ranking import beats, contests
from odegrad.reports.leaderboard.submissions import Submission, contested, read_submissions

THREE = ("naive", "adjoint", "anode")


@pytest.fixture
def submission(record, frame_of):
    """Return a submission of three methods on digits, whose seconds of an iteration are what ``seconds`` says."""

    def make(name="lab", seconds=(1.0, 2.0, 3.0), seeds=range(8), machine=None, methods=THREE, **measured):
        records = [
            record("digits", method, seed, forward_seconds=each, backward_seconds=0.0, update_seconds=0.0, **measured)
            for seed in seeds
            for method, each in zip(methods, seconds, strict=True)
        ]
        if machine is not None:
            records = [dataclasses.replace(each, machine=each.machine | machine) for each in records]
        return Submission(name, frame_of(records))

    return make


def of(found, column="iteration"):
    return [contest for contest in found if contest.quantity.column == column]


def ranks(contest):
    return {standing.method: standing.rank for standing in contest.standings}


def by_hand(costs):
    """Return ``beats`` by the sign test of scipy and Holm's procedure as its paper states it."""
    number = len(costs)
    found, p_values = np.zeros((number, number), bool), {}
    for i, j in itertools.permutations(range(number), 2):
        common = [(a, b) for a, b in zip(costs[i], costs[j], strict=True) if not (math.isnan(a) or math.isnan(b))]
        wins = sum(a < b for a, b in common)
        p_values[i, j] = binomtest(wins, len(common), 0.5, "greater").pvalue if common else 1.0
    for step, (pair, p_value) in enumerate(sorted(p_values.items(), key=lambda each: each[1])):
        if p_value > 0.05 / (len(p_values) - step):
            break
        found[pair] = True
    return found


@pytest.mark.parametrize("seed", range(6))
def test_beats_is_the_sign_test_with_holm(seed):
    """Against another library's test and the procedure by hand; with ties, infinities and blocks that are missing."""
    rng = np.random.default_rng(seed)
    costs = rng.normal(size=(5, 20)) + 1.5 * np.arange(5)[:, None]
    costs = np.round(costs, 1)
    costs[rng.random(costs.shape) < 0.1] = math.nan
    costs[rng.random(costs.shape) < 0.1] = math.inf
    np.testing.assert_array_equal(beats(costs), by_hand(costs))


def test_two_equal_methods_are_told_apart_in_at_most_5_percent():
    """All signs that six blocks can have are equally likely where there is no difference: two of 64 decide."""
    decided = sum(beats(np.array([[0.0] * 6, signs])).any() for signs in itertools.product((-1.0, 1.0), repeat=6))
    assert decided == 2
    assert not beats(np.array([[0.0] * 5, [1.0] * 5])).any()


def test_ranks_are_ranges_until_blocks_decide(submission):
    """Three methods in one order: five seeds decide nothing, eight all of it."""
    (few,) = of(contests(contested([submission(seeds=range(5))])))
    assert ranks(few) == {"naive": "1-3", "adjoint": "1-3", "anode": "1-3"}
    assert few.sentence == "Nothing decides who leads 3 methods: 5 blocks do not; at least 7 that agree would."
    (many,) = of(contests(contested([submission()])))
    assert ranks(many) == {"naive": "1", "adjoint": "2", "anode": "3"}
    assert many.sentence == "naive is first of 3, decided on 8 blocks."
    naive, adjoint, _ = many.standings
    assert (adjoint.effect, adjoint.low, adjoint.high) == (2.0, 2.0, 2.0)
    assert (naive.effect, naive.n_ok, naive.n) == (1.0, 8, 8)


def test_methods_that_tie_share_their_ranks(submission):
    """Two equal ones lead, and nobody is crowned."""
    (contest,) = of(contests(contested([submission(seconds=(1.0, 1.0, 3.0))])))
    assert ranks(contest) == {"naive": "1-2", "adjoint": "1-2", "anode": "3"}
    assert contest.sentence == "naive and adjoint lead 3 methods and are not told apart, on 8 blocks."
    assert 'class="sole"' not in page([], [contest])


def test_a_cheap_inaccurate_gradient_wins_nothing(submission):
    """It counts as failed for times, memory and calls; its error is ranked as it is."""
    good, bad = (
        submission(methods=("adjoint", "anode"), seconds=(2.0, 3.0)),
        submission(methods=("naive",), seconds=(1.0,)),
    )
    doubted = bad.frame.assign(gradient_accuracy="inaccurate")
    both = Submission("lab", contested([good, Submission("lab", doubted)])[good.frame.columns])
    found = contests(contested([both]))
    assert ranks(of(found)[0]) == {"adjoint": "1", "anode": "2", "naive": "3"}
    assert of(found)[0].standings[-1].n_ok == 0
    assert ranks(of(found, "trained_gradient_relative_error")[0])["naive"] == "1-2"


def test_failed_runs_are_infinitely_dear(record, frame_of):
    """And a method that did not measure a quantity is not in its table."""
    records = [record("digits", "naive", seed, Status.DIVERGED, "inf") for seed in range(8)]
    records += [record("digits", "adjoint", seed) for seed in range(8)]
    records += [record("digits", "anode", seed, peak_bytes=None) for seed in range(8)]
    found = contests(contested([Submission("lab", frame_of(records))]))
    (memory,) = of(found, "peak_bytes")
    assert ranks(memory) == {"adjoint": "1", "naive": "2"}
    assert memory.baseline == "adjoint"
    assert of(found)[0].standings[-1].method == "naive"


def test_times_of_machines_and_submissions_are_apart(submission):
    """Three machines make three tables of times; counts make one; two submissions on one machine are not paired."""
    parts = [
        submission("a", methods=("naive",), seconds=(2.0,)),
        submission("b", methods=("adjoint",), seconds=(1.0,)),
        submission("c", machine={"cpu": "Other"}),
    ]
    found = contests(contested(parts))
    times = of(found)
    assert [contest.machine for contest in times] == [
        "cpu Test CPU 3000, cores 2, threads 1",
        "cpu Other, cores 2, threads 1",
    ]
    assert ranks(times[0]) == {"naive": "1-2", "adjoint": "1-2"}
    assert [contest.machine for contest in of(found, "calls")] == [""]
    assert of(found, "calls")[0].blocks == 8


def test_metrics_are_ranked_in_their_direction(record, frame_of):
    """Accuracies upwards, likelihoods downwards; their differences are told where all are of one name."""
    digits = [
        record("digits", method, seed, metric_value=value)
        for seed in range(8)
        for method, value in (("naive", 0.5), ("adjoint", 0.75))
    ]
    (contest,) = of(contests(contested([Submission("lab", frame_of(digits))])), "metric_value")
    assert ranks(contest) == {"adjoint": "1", "naive": "2"}
    assert contest.standings[0].effect == -0.25
    circles = [
        record("circles", method, seed, metric_value=value)
        for seed in range(8)
        for method, value in (("naive", 3.5), ("adjoint", 3.25))
    ]
    (contest,) = of(contests(contested([Submission("lab", frame_of(circles))])), "metric_value")
    assert ranks(contest) == {"adjoint": "1", "naive": "2"}
    mixed = [
        dataclasses.replace(each, measured={**each.measured, "metric_name": str(i)}) for i, each in enumerate(circles)
    ]
    (contest,) = of(contests(contested([Submission("lab", frame_of(mixed))])), "metric_value")
    assert all(math.isnan(standing.effect) for standing in contest.standings)


def test_page_says_what_each_submission_ran_with(submission, tmp_path):
    """Machine, versions and settings; every name escaped; no address outside of the page."""
    odd = submission("<b>lab</b>", machine={"cpu": "<i>CPU</i>"}, library="torchdiffeq", library_version="0.2.5")
    found, written = write([odd, submission("other")], tmp_path / "new")
    assert [path.name for path in written] == ["leaderboard.csv", "leaderboard.html"]
    html = written[-1].read_text()
    for text in (
        "&lt;b&gt;lab&lt;/b&gt;",
        "&lt;i&gt;CPU&lt;/i&gt;",
        "torchdiffeq 0.2.5",
        "torch 2.13.0",
        "0.001 / 0.001",
    ):
        assert text in html
    assert "<b>" not in html
    assert "<i>" not in html
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", html)
    assert html.count("<table") == len(found)
    assert len(table(found)) == sum(len(contest.standings) for contest in found)


def test_folders_are_named_apart(record, write_results, tmp_path):
    """By their names, by their paths where two are alike; one given twice, or none, is refused."""
    folders = [write_results([record()], folder=tmp_path / part / "results") for part in "ab"]
    assert [each.name for each in read_submissions(folders)] == list(map(str, folders))
    assert [each.name for each in read_submissions(folders[:1])] == ["results"]
    with pytest.raises(UsageError, match="expected each folder once, got it twice"):
        read_submissions([folders[0], folders[0] / "../results"])
    with pytest.raises(ResultsError, match="expected a folder that holds"):
        read_submissions([tmp_path / "nothing"])
