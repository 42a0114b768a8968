"""The pytest plug-in: numbers against hand counts and closed forms, and whole pytest runs of a user's."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from odegrad.errors import OdegradError, SuiteError, UnknownNameError, UsageError
from odegrad.gate.baseline import run_name
from odegrad.methods.gradients.anode import Anode
from odegrad.record import Run
from odegrad.registry import load_from_file
from odegrad.suite import load_suite
from odegrad.testing.cases import runs_of_suite
from odegrad.testing.fixture import GradientBenchmark
from odegrad.worker import Worker

pytest_plugins = ["pytester"]

HERE = Path(__file__).parent
EXAMPLES = HERE.parent.parent / "docs" / "examples"
TINY = "tiny_task.py:Tiny"  # beside this file, which is where the fixture looks
STEPS = 8
RK4 = {"solver": "rk4", "solver_options": {"num_steps": STEPS}, "dtype": "float64"}

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


@pytest.fixture
def users_folder(pytester):
    """Return a user's folder: a method and a task in files, a suite of both and a test."""
    shutil.copy(EXAMPLES / "my_method.py", pytester.path)
    shutil.copy(HERE / "tiny_task.py", pytester.path)
    (pytester.path / "mine.toml").write_text(SUITE, encoding="utf-8")
    return pytester.path


@pytest.mark.parametrize(("method", "recompute", "adjoint"), [("naive", 0, 0), ("anode", 4, 0), ("adjoint", 0, 4)])
def test_fixed_steps_cost_four_calls_each(gradient_benchmark, method, recompute, adjoint):
    """Rk4 calls f four times a step; the backward pass pulls back through as many, which anode calls once more."""
    found = gradient_benchmark(method, TINY, **RK4)
    assert (found.accepted_steps, found.rejected_steps) == (STEPS, 0)
    assert found.accepted_steps_backward == (STEPS if adjoint else 0)
    assert found.nfe_forward == found.vjps == 4 * STEPS
    assert (found.nfe_recompute, found.nfe_adjoint) == (recompute * STEPS, adjoint * STEPS)
    assert found.nfe == (4 + recompute + adjoint) * STEPS
    assert found.nfe_outside == found.nfe_tap == found.flops == 0  # f is one multiplication of numbers


def test_adaptive_steps_cost_six_calls_each(gradient_benchmark):
    """Dopri5 reuses its last stage, and calls f twice to choose the first step; the adjoint's solve does the same."""
    found = gradient_benchmark("adjoint", TINY, rtol=1e-8, dtype="float64")
    assert found.nfe_forward == 2 + 6 * (found.accepted_steps + found.rejected_steps)
    assert found.nfe_backward == 2 + 6 * (found.accepted_steps_backward + found.rejected_steps_backward)
    assert found.vjps == found.nfe_backward == found.nfe_adjoint


def test_error_is_that_of_the_closed_form(gradient_benchmark):
    """Naive through rk4 differentiates R(theta h)^2N, R the first five terms of exp; the true gradient is exp's."""
    z = 0.5 / STEPS
    growth = sum(z**k / math.factorial(k) for k in range(5))
    slope = sum(z**k / math.factorial(k) for k in range(4))
    discrete = growth ** (2 * STEPS - 1) * slope  # d/dtheta of R(theta h)^2N is 2N h R^(2N-1) R' = 2 R^(2N-1) R'
    found = gradient_benchmark("naive", TINY, **RK4)
    assert found.gradient_relative_error == pytest.approx(abs(discrete / math.e - 1), rel=1e-4)
    assert found.gradient_method_error == 0.0


def test_naive_keeps_what_the_graph_holds(gradient_benchmark):
    """Naive's kept bytes grow by the same for every step, anode's do not grow."""
    kept = {
        method: [
            gradient_benchmark(method, TINY, solver="rk4", solver_options={"num_steps": n}).saved_bytes
            for n in (4, 8, 12)
        ]
        for method in ("naive", "anode")
    }
    first, second, third = kept["naive"]
    assert third - second == second - first > 0
    assert len(set(kept["anode"])) == 1


def test_numbers_are_those_of_fresh_processes(gradient_benchmark):
    """What the passes measure in processes of their own is equal, to the byte and to the gradient's bits."""
    run = Run(
        suite="", task="linear", size="tiny", gradient="interpolation", optimizer="adam", solver="dopri5", seed=3,
        rtol=1e-4, atol=1e-6, iterations=0, passes="count,memory",
    )  # fmt: skip
    record = Worker(("count", "memory"), "odegrad.passes:run_pass").measure(run, {}, lambda _: None)
    found = gradient_benchmark("interpolation", "linear", rtol=1e-4, atol=1e-6, seed=3).to_dict()
    expected = {k: v for k, v in record.measured.items() if v is not None and k != "process_seconds"}
    assert expected == {name: found.get(name) for name in expected}
    assert set(found) - set(expected) == {"backward_phase", "nfe_recompute", "nfe_adjoint", "nfe", "flops"}


def test_name_class_and_object_give_the_same(gradient_benchmark):
    """A registered name, its class and an object of it; so do a task's name and its class."""
    tiny = load_from_file(f"{HERE / 'tiny_task.py'}:Tiny", "task")
    found = [
        gradient_benchmark(method, task, options=options, **RK4)
        for method, task, options in [
            ("anode", TINY, {"steps_per_block": 2}),
            (Anode, tiny, {"steps_per_block": 2}),
            (Anode(steps_per_block=2), tiny, None),
        ]
    ]
    assert found[0] == found[1] == found[2]
    assert found[0].saved_bytes != gradient_benchmark("anode", TINY, **RK4).saved_bytes


def test_pair_brings_its_optimizer(gradient_benchmark):
    """Snopt is adjoint whose optimizer takes curvature samples, counted apart."""
    pair = gradient_benchmark("snopt", "linear", rtol=1e-4)
    adjoint = gradient_benchmark("adjoint", "linear", rtol=1e-4)
    assert pair.nfe_tap > adjoint.nfe_tap == 0
    assert (pair.nfe_forward, pair.nfe_backward) == (adjoint.nfe_forward, adjoint.nfe_backward)
    assert gradient_benchmark("adjoint", "linear", rtol=1e-4, optimizer="snopt").nfe_tap == pair.nfe_tap


def test_process_is_left_as_it_was(gradient_benchmark):
    """Threads and random numbers stay; a test without gradients still gets them."""
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        found = gradient_benchmark("naive", TINY, threads=threads + 1, seed=1, **RK4)
        assert not torch.is_grad_enabled()
    assert found.vjps == 4 * STEPS
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("arguments", "changes", "error", "message"),
    [
        (("adjiont", "linear"), {}, UnknownNameError, "unknown method 'adjiont': did you mean 'adjoint'"),
        (("adjoint", "linera"), {}, UnknownNameError, "unknown task 'linera': did you mean 'linear'"),
        (("adjoint", "linear"), {"size": "tinny"}, UnknownNameError, "did you mean 'tiny'"),
        (("adjoint", "linear"), {"solver": "dopri4"}, UnknownNameError, "unknown solver 'dopri4'"),
        (("adjoint", "linear"), {"rtol": -1.0}, UsageError, "rtol: expected a positive number, got -1.0"),
        (("adjoint", "linear"), {"dtype": "float46"}, UnknownNameError, "unknown dtype 'float46'"),
        (("adjoint", "linear"), {"device": "cuba"}, UnknownNameError, "unknown device 'cuba'"),
        (("adjoint", "linear"), {"options": {"solvr": "rk4"}}, UnknownNameError, "did you mean 'solver'"),
        (("mali", "linear"), {}, UsageError, "mali cannot use solver dopri5"),
        ((len, "linear"), {}, UsageError, "method: expected a name, .*, got <built-in function len>"),
        ((Anode(), "linear"), {"options": {"steps_per_block": 2}}, UsageError, "options: expected none beside an obj"),
        (("missing.py:Method", "linear"), {}, UsageError, "there is no file .*missing.py"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(gradient_benchmark, arguments, changes, error, message):
    """An error of the project's tree that names the argument, what was expected and what came."""
    with pytest.raises(error, match=message) as raised:
        gradient_benchmark(*arguments, **changes)
    assert isinstance(raised.value, OdegradError)


class Taker:
    """Stands in for pytest-benchmark's fixture; notes what it was asked to time, and does it once."""

    def __init__(self):
        self.extra_info = {}
        self.settings = None

    def pedantic(self, target, **settings):
        self.settings = settings
        settings["setup"]()
        target()


def test_rounds_follow_the_options():
    """At least the least number of rounds, at most two hundred; numbers and the run's names go into extra_info."""
    for seconds, least, rounds in ((0.0, 7, 7), (1e9, 7, 200)):
        taker = Taker()
        found = GradientBenchmark(HERE, taker, least, seconds)("naive", TINY, **RK4)
        assert taker.settings["rounds"] == rounds
        assert taker.extra_info.items() >= found.to_dict().items()
        assert taker.extra_info.items() >= {"task": TINY, "method": "naive", "solver": "rk4", "seed": 0}.items()


def test_second_time_of_one_test_is_refused():
    """The fixture of pytest-benchmark takes one time; a gradient that is only counted may come before or after."""
    benchmark = GradientBenchmark(HERE, Taker(), 1, 0.0)
    benchmark("naive", TINY, benchmark=False, **RK4)
    benchmark("naive", TINY, **RK4)
    benchmark("naive", TINY, benchmark=False, **RK4)
    with pytest.raises(UsageError, match="benchmark: expected one gradient in a test that benchmarks"):
        benchmark("naive", TINY, **RK4)


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
