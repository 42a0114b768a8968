"""From lines to steps: machine classes, releases, drifts, ranges and the commands that repeat them."""

import dataclasses

import numpy as np
import pytest

from odegrad.history.trends import trends
from odegrad.reports.trends import to_dict


@pytest.fixture
def line(make_line):
    """Return the function that makes lines."""
    return make_line


def sha(number):
    """Return the hash of the commit of that place."""
    return f"{number + 1:040x}"


def told(steps):
    """Return metric, ends and values of steps."""
    return [(step.metric, step.good, step.bad, step.before, step.after) for step in steps]


def test_exact_figure_moves_by_one_and_the_range_is_the_commit(line):
    """Six commits, one f call more from the fourth on; the run's parent is the commit before it."""
    found = trends([line(i, nfe_forward=26 + (i >= 3), saved_bytes=640) for i in range(6)])
    (step,) = found.steps
    assert told([step]) == [("nfe_forward", 2, 3, 26, 27)]
    assert (step.verdict, step.change) == ("regressed", "+1 (+3.8%)")
    assert found.between(2, 3) == sha(3)[:12]
    good, bad = sha(2)[:12], sha(3)[:12]
    assert step.command == (
        f"git checkout {good} && odegrad gate mine --baseline {good}.json --update --reason {good} && "
        f"git checkout {bad} && odegrad gate mine --baseline {good}.json"
    )


def test_commits_without_results_widen_the_range(line):
    """Commits 2, 3 and 4 were not measured."""
    found = trends([line(i, nfe_forward=26 + (i >= 5)) for i in (0, 1, 5, 6)])
    assert told(found.steps) == [("nfe_forward", 1, 2, 26, 27)]  # places among the commits of the history
    assert found.between(1, 2) == f"{sha(1)[:12]}..{sha(5)[:12]}"


def test_order_is_that_of_ancestors_not_of_dates_or_files(line):
    """The lines come backwards, and all commits have one date."""
    lines = [dataclasses.replace(line(i, nfe_forward=26 + (i >= 3)), date="2026-01-01") for i in range(6)]
    assert told(trends(reversed(lines)).steps) == [("nfe_forward", 2, 3, 26, 27)]


def test_failed_run_is_a_step_and_so_is_its_repair(line):
    """Ok, error, error, ok."""
    found = trends([line(i, status="error" if i in {1, 2} else "ok") for i in range(4)])
    assert told(found.steps) == [("status", 0, 1, "ok", "error"), ("status", 2, 3, "error", "ok")]
    assert [step.verdict for step in found.steps] == ["regressed", "improved"]


def test_win_is_told_and_is_no_regression(line):
    """Fewer f calls, and other bits of the gradient, which are neither."""
    found = trends([line(i, nfe_forward=26 - (i >= 1), gradient_digest="ab"[i >= 1]) for i in range(3)])
    assert {step.metric: step.verdict for step in found.steps} == {
        "nfe_forward": "improved",
        "gradient_digest": "changed",
    }


def test_errors_may_move_by_half_a_decade(line):
    """The gate's rule for errors: a factor of 2 is none, a factor of 4 is a step."""
    errors = [1e-4, 2e-4, 4e-4, 4e-4]
    found = trends([line(i, gradient_relative_error=error) for i, error in enumerate(errors)])
    assert told(found.steps) == [("gradient_relative_error", 1, 2, 1e-4, 4e-4)]


def test_machine_classes_are_followed_each_by_itself(line):
    """Two processors in turn whose bits and steps differ; only commit 4 changes anything."""
    lines = []
    for i in range(8):
        other = i % 2 == 1
        calls = 26 + other + (i >= 4)
        lines.append(line(i, machine={"cpu": "B" if other else "A"}, nfe_forward=calls, gradient_digest=f"{other}"))
    found = trends(lines)
    assert told(found.steps) == [("nfe_forward", 2, 4, 26, 27), ("nfe_forward", 3, 5, 27, 28)]
    assert {step.machine for step in found.steps} == {"A", "B"}


def test_new_machine_class_begins_within_the_gates_bands(line):
    """A newer torch: 5 % more f calls are none of the code's, 50 % are a step that names the versions."""
    for calls, number in ((105, 0), (150, 1)):
        lines = [line(i, nfe_forward=100) for i in range(3)]
        lines += [line(i, machine={"torch": "2.14.0"}, nfe_forward=calls) for i in range(3, 6)]
        found = trends(lines)
        assert len(found.steps) == number
        assert all("torch 2.13.0 -> 2.14.0" in step.why for step in found.steps)


def test_inexact_figure_has_a_band(line):
    """What two measurements of a commit did not agree on."""
    lines = [line(i, nfe_forward=100 + i % 3) for i in range(6)]
    assert len(trends(lines).steps) == 5
    assert not trends([dataclasses.replace(each, inexact=("nfe_forward",)) for each in lines]).steps


def test_time_moves_on_its_own_machine_only(line):
    """A slower machine begins in the middle: no step; then 20 % on the first machine alone."""
    generator = np.random.default_rng(0)
    noise = np.exp(0.02 * generator.standard_normal((2, 40)))
    lines = [line(i, seconds=0.01 * noise[0, i] * (1.2 if i >= 28 else 1.0)) for i in range(40)]
    lines += [line(i, seconds=0.02 * noise[1, i], machine={"cpu": "slow"}) for i in range(20, 40)]
    found = trends(lines)
    (step,) = found.steps
    assert step.good < 28 <= step.bad
    assert step.after / step.before == pytest.approx(1.2, rel=0.05)
    assert step.verdict == "regressed"
    good, bad = (found.marks[end].sha[:12] for end in (step.good, step.bad))
    assert step.command == f"git checkout {bad} && odegrad gate mine --base {good}"
    assert found.machines[step.machine].startswith("cpu Test CPU 3000")


def test_disturbed_times_are_left_out(line):
    """Ten runs under load that took twice as long."""
    lines = [line(i, seconds=0.01) for i in range(20)]
    lines += [dataclasses.replace(line(i, seconds=0.02), taints="load") for i in range(20, 30)]
    found = trends(lines)
    assert not found.steps
    assert found.notes == ["Times of 10 of 30 results are left out, because the machine was disturbed (load)."]
    assert [len(each.measured) for each in found.series if each.metric == "backward_seconds"] == [20]


def test_many_small_drifts_add_up_to_one_since_the_release(line):
    """A metric of the training by 1 % a commit, within its band of 5 % of commit to commit; times by 1 % as well."""
    generator = np.random.default_rng(1)
    lines = []
    for i in range(30):
        growth = 1.01 ** max(0, i - 9)
        lines.append(
            line(i, seconds=0.01 * growth * float(np.exp(0.02 * generator.standard_normal())),
                 release="v1" if i == 9 else None, trained_nfe_forward=round(1000 * growth), nfe_forward=26)
        )  # fmt: skip
    drifts = {step.metric: step for step in trends(lines).drifts}
    assert set(drifts) == {"trained_nfe_forward", "backward_seconds"}
    assert (drifts["trained_nfe_forward"].before, drifts["trained_nfe_forward"].after) == (1000, 1220)
    assert 1.1 < drifts["backward_seconds"].after / drifts["backward_seconds"].before < 1.3
    assert all((step.good, step.bad) == (9, 29) for step in drifts.values())


def test_nothing_stands_away_from_a_release_that_is_the_last_commit(line):
    """The release itself moved."""
    found = trends([line(i, nfe_forward=26 + (i == 3), release="v1" if i in {0, 3} else None) for i in range(4)])
    assert not found.drifts
    assert len(found.steps) == 1


def test_release_of_another_machine_class_is_held_against_within_bands(line):
    """Release on one torch, now on another: 5 % are none, 50 % are."""
    for calls, number in ((105, 0), (150, 1)):
        lines = [line(0, nfe_forward=100, release="v1"), line(1, nfe_forward=100)]
        lines += [line(2, machine={"torch": "2.14.0"}, nfe_forward=calls)]
        assert sum(step.machine == "B" for step in trends(lines).drifts) == number


def test_sentences_and_json_name_commits_metrics_and_short_series(line):
    """What people and machines read."""
    found = trends([line(i, seconds=0.01, nfe_forward=26 + (i >= 2), release="v1" if i == 0 else None)
                    for i in range(4)])  # fmt: skip
    assert found.sentences() == [
        "4 commits, 1 run, 2 series of 8 values: 1 step in 1 commit range.",
        f"{sha(2)[:12]}: 1 regressed: nfe_forward.",
        "Since release v1: 1 series stand elsewhere.",
        "1 series of times are shorter than 8 commits: no step of theirs can be told yet.",
    ]
    data = to_dict(found)
    assert [(step["good"], step["bad"], step["metric"]) for step in data["steps"]] == [(sha(1), sha(2), "nfe_forward")]
    assert data["commits"][0]["release"] == "v1"


def test_suite_is_called_by_its_path(line):
    """A suite of a user's own is a file."""
    found = trends([line(i, nfe_forward=26 + i) for i in range(2)], "{}.toml".format)
    assert "odegrad gate mine.toml --baseline" in found.steps[0].command
