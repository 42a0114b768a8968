"""The pytest plug-in in whole pytest runs of a user's, and the cases that ``--odegrad`` adds."""

import json
import shutil
from pathlib import Path

import pytest

from odegrad.errors import SuiteError
from odegrad.gate.baseline import run_name
from odegrad.suites.suite import load_suite
from odegrad.testing.cases import runs_of_suite

pytest_plugins = ["pytester"]

HERE = Path(__file__).parents[1]
EXAMPLES = HERE.parent.parent / "docs" / "examples"
STEPS = 8

SUITE = """
name = "mine"
methods = [{ gradient = "my_method.py:TorchCheckpoint", name = "mine" }, "naive", "mali"]
seeds = [0]

[[solvers]]
name = "rk4"
options = { num_steps = 8 }

[[tasks]]
name = "tiny_task.py:Tiny"
size = "tiny"
"""

USERS_TEST = """
def test_own_method(gradient_benchmark, benchmark):
    naive = gradient_benchmark("naive", "tiny_task.py:Tiny", solver="rk4", benchmark=False)
    own = gradient_benchmark("my_method.py:TorchCheckpoint", "tiny_task.py:Tiny", solver="rk4")
    assert own.nfe_recompute == own.nfe_forward == naive.nfe_forward == 4
    assert own.gradient_digest == naive.gradient_digest
    assert own.saved_bytes < naive.saved_bytes
"""

QUICK = ("-W", "error", "-p", "no:cacheprovider", "--benchmark-max-time=0.01")


@pytest.fixture(autouse=True)
def by_itself(monkeypatch):
    """Let a pytest in a process of its own not take itself for a worker of this one: those time nothing."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


@pytest.fixture
def users_folder(pytester):
    """Return a user's folder: a method and a task in files, a suite of both and a test."""
    shutil.copy(EXAMPLES / "my_method.py", pytester.path)
    shutil.copy(HERE / "tiny_task.py", pytester.path)
    (pytester.path / "mine.toml").write_text(SUITE, encoding="utf-8")
    return pytester.path


def test_plain_run_does_not_import_torch(pytester):
    """The plug-in is loaded, brings nothing along but pytest's own, and adds no case."""
    pytester.makepyfile(
        """
        import sys

        def test_nothing_came_along():
            ours = {name for name in sys.modules if name.partition(".")[0] == "odegrad"}
            assert ours == {"odegrad", "odegrad.testing", "odegrad.testing.plugin"}
            assert not {"torch", "numpy", "pandas"} & set(sys.modules)
        """
    )
    pytester.runpytest_subprocess("-W", "error", "-p", "no:hypothesispytest", "-p", "no:benchmark").assert_outcomes(
        passed=1
    )


@pytest.mark.slow
def test_cases_of_a_suite_and_a_users_test(pytester, users_folder):
    """Times and exact numbers in the JSON, refusals skipped; a second run compares itself with the first."""
    pytester.makepyfile(USERS_TEST)
    storage = ("--odegrad=mine.toml", "--benchmark-storage=kept", *QUICK)
    first = pytester.runpytest_subprocess(*storage, "--benchmark-autosave", "--benchmark-json=out.json")
    first.assert_outcomes(passed=3, skipped=1)
    found = {each["fullname"]: each for each in json.loads((users_folder / "out.json").read_text())["benchmarks"]}
    ours = {name for name in found if name.startswith("odegrad::test_gradient[")}
    assert len(ours) == 2
    (mine,) = [found[name]["extra_info"] for name in ours if "mine" in name]
    assert mine["nfe_forward"] == mine["nfe_recompute"] == 4 * STEPS
    assert (mine["vjps"], mine["accepted_steps"], mine["rejected_steps"]) == (4 * STEPS, STEPS, 0)
    assert mine["peak_bytes"] > mine["saved_bytes"] > 0
    assert (mine["method"], mine["task"], mine["flops"]) == ("mine", "tiny_task.py:Tiny", 0)
    own = next(each for name, each in found.items() if name.endswith("::test_own_method"))
    assert own["extra_info"]["nfe_recompute"] == 4
    assert own["stats"]["rounds"] >= 5
    second = pytester.runpytest_subprocess(*storage, "--benchmark-compare", "-m", "odegrad", "-k", "naive")
    second.assert_outcomes(passed=1, deselected=3)
    second.stdout.re_match_lines([r"test_gradient\[.*naive.*\(NOW\)"])
    second.stdout.re_match_lines([r"test_gradient\[.*naive.*\(0001"])


def test_without_pytest_benchmark_there_are_counts(pytester, users_folder):
    """The fixture counts; --odegrad says what to install."""
    pytester.makepyfile(USERS_TEST.replace(", benchmark)", ")"))
    pytester.runpytest_subprocess("-W", "error", "-p", "no:benchmark").assert_outcomes(passed=1)
    refused = pytester.runpytest_subprocess("-p", "no:benchmark", "--odegrad")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*--odegrad: expected pytest-benchmark*got none: pip install pytest-benchmark*"])


def test_wrong_suite_is_pytests_usage_error(pytester):
    """A test's path taken for a suite is answered with how to write it."""
    pytester.makepyfile(test_mine="")
    refused = pytester.runpytest_subprocess("--odegrad", "test_mine.py")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*unknown suite 'test_mine.py'*--odegrad=gate test_mine.py*"])


def test_cases_are_named_as_in_a_baseline():
    """One case a run, in the suite's order."""
    runs, folder = runs_of_suite("gate-time")
    assert list(runs.values()) == load_suite("gate-time").runs()
    assert set(runs) == {run_name(run) for run in runs.values()}
    assert folder == Path.cwd()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tuning = { seed = 7 }", "suite mine: expected fixed settings, got tuning"),
        ('include = [{ method = "aca" }]', "suite mine: expected runs, got none"),
    ],
)
def test_suite_without_cases_is_refused(users_folder, line, message):
    """A suite that tunes has no settings yet; one that leaves everything out has no runs."""
    (users_folder / "mine.toml").write_text(SUITE.replace("seeds = [0]", line), encoding="utf-8")
    with pytest.raises(SuiteError, match=message):
        runs_of_suite(str(users_folder / "mine.toml"))
