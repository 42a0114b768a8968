"""The fixture ``gradient_benchmark``: hand counts, closed forms and fresh processes as oracles; what it refuses."""

import math
from pathlib import Path

import pytest
import torch

from odegrad.errors import OdegradError, UnknownNameError, UsageError
from odegrad.methods.gradients.anode import Anode
from odegrad.records.record import Run
from odegrad.running.worker import Worker
from odegrad.testing.fixture import GradientBenchmark
from odegrad.user.files import load_from_file

HERE = Path(__file__).parents[1]
TINY = "../tiny_task.py:Tiny"  # from the folder of this file, which is where the fixture looks
STEPS = 8
RK4 = {"solver": "rk4", "solver_options": {"num_steps": STEPS}, "dtype": "float64"}


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
    record = Worker(("count", "memory"), "odegrad.measuring.passes:run_pass").measure(run, {}, lambda _: None)
    numbers = gradient_benchmark("interpolation", "linear", rtol=1e-4, atol=1e-6, seed=3)
    found = numbers.to_dict()
    expected = {k: v for k, v in record.measured.items() if v is not None and k != "process_seconds"}
    assert numbers.gradient_sketch == expected.pop("gradient_sketch")
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
        found = GradientBenchmark(Path(__file__).parent, taker, least, seconds)("naive", TINY, **RK4)
        assert taker.settings["rounds"] == rounds
        assert taker.extra_info.items() >= found.to_dict().items()
        assert taker.extra_info.items() >= {"task": TINY, "method": "naive", "solver": "rk4", "seed": 0}.items()


def test_second_time_of_one_test_is_refused():
    """The fixture of pytest-benchmark takes one time; a gradient that is only counted may come before or after."""
    benchmark = GradientBenchmark(Path(__file__).parent, Taker(), 1, 0.0)
    benchmark("naive", TINY, benchmark=False, **RK4)
    benchmark("naive", TINY, **RK4)
    benchmark("naive", TINY, benchmark=False, **RK4)
    with pytest.raises(UsageError, match="benchmark: expected one gradient in a test that benchmarks"):
        benchmark("naive", TINY, **RK4)
