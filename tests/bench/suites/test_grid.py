"""The axes of a suite: lists of options, optimizers, tolerances, sizes, types, devices and rules."""

import textwrap
from collections import Counter

import pytest

from odegrad.errors import SuiteError
from odegrad.records.record import Run
from odegrad.suites.grid import check_count, count_runs, method_cells, solver_cells
from odegrad.suites.schema import validate
from odegrad.suites.suite import load_suite

SMALL = """
name = "small"
methods = ["naive", "adjoint"]

[[solvers]]
name = "dopri5"

[[tasks]]
name = "linear"
size = "tiny"
"""


@pytest.fixture
def load(tmp_path):
    """Return a function that loads the small suite with more at its top, and with overrides."""

    def load_with(top="", *overrides):
        path = tmp_path / "my.toml"
        path.write_text(textwrap.dedent(top) + SMALL)
        return load_suite(str(path), overrides)

    return load_with


def test_every_axis_multiplies_the_runs(load):
    """Methods x optimizers x tolerances x sizes x seeds x devices x types, each cell once."""
    suite = load(
        """
        optimizers = ["adam", {name = "sgd", options = {lr = 0.1}}]
        tolerances = [1e-3, {rtol = 1e-5, atol = 1e-7}]
        seeds = [0, 1]
        devices = ["cpu", "cuda"]
        dtype = ["float32", "float64"]
        """,
        "size=['tiny', 'default']",
    )
    runs = suite.runs()
    assert len(runs) == len({run.run_id for run in runs}) == 2 * 2 * 2 * 2 * 2 * 2 * 2
    assert {run.method for run in runs} == {"naive+adam", "naive+sgd", "adjoint+adam", "adjoint+sgd"}
    assert {(run.rtol, run.atol) for run in runs} == {(1e-3, 1e-3), (1e-5, 1e-7)}
    assert {run.device for run in runs} == {"cpu", "cuda"}
    assert {run.optimizer_options for run in runs if run.optimizer == "sgd"} == {(("lr", 0.1),)}
    assert {run.optimizer_options for run in runs if run.optimizer == "adam"} == {()}


def test_swept_tolerances_win_over_a_task_s_own(load):
    """A sweep that a task overrode would give the same run twice."""
    runs = load("tolerances = [1e-3, 1e-6]\n", "rtol=1e-2").runs()
    assert {run.rtol for run in runs} == {1e-3, 1e-6}


def test_pair_keeps_its_optimizer(load):
    """Methods with an optimizer of their own are not crossed with the others."""
    runs = load('optimizers = ["adam"]\n', 'methods=["naive", "snopt", {gradient="anode", optimizer="sgd"}]').runs()
    assert Counter(run.method for run in runs) == {"naive+adam": 1, "snopt": 1, "anode+sgd": 1}


def test_list_of_options_is_a_method_a_value(load):
    """Every point of the grid has the options that vary in its name."""
    grid = '[{gradient = "interpolation", gradient_options = {num_nodes = [4, 8], kind = "second"}}]'
    runs = load("", f"methods={grid}").runs()
    found = {run.method: dict(run.gradient_options) for run in runs}
    assert found == {
        "interpolation num_nodes=4": {"num_nodes": 4, "kind": "second"},
        "interpolation num_nodes=8": {"num_nodes": 8, "kind": "second"},
    }


def test_regularisers_are_an_axis(load):
    """Each runs with every method; a list of weights is a row for each, and none is the run without."""
    axis = """
        regularisers = [
            { name = "none" },
            { name = "kinetic", options = { kinetic = [0.01, 0.1] } },
            { name = "TayNODE", options = { taylor = 0.01, "taylor.order" = 3 } },
        ]
        """
    runs = load(axis).runs()
    found = {run.method: dict(run.regulariser_options) for run in runs if run.gradient == "naive"}
    assert found == {
        "naive": {},
        "naive+kinetic kinetic=0.01": {"kinetic": 0.01},
        "naive+kinetic kinetic=0.1": {"kinetic": 0.1},
        "naive+TayNODE": {"taylor": 0.01, "taylor.order": 3},
    }
    assert len({run.run_id for run in runs}) == len(runs) == 8
    plain = {run.run_id for run in load().runs()}
    assert plain <= {run.run_id for run in runs}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{ kinetik = 0.1 }", "did you mean 'kinetic'"),
        ("{ kinetic = -0.1 }", "expected a weight of at least 0"),
        ('{ taylor = 0.1, "taylor.order" = 0 }', "whole number from 1 to 4"),
    ],
)
def test_a_wrong_regulariser_is_answered(load, options, message):
    with pytest.raises(SuiteError, match=message):
        load(f'regularisers = [{{ name = "mine", options = {options} }}]\n')


def test_rules_pick_and_drop_runs(load):
    """A run must match a rule of include, in all the fields that the rule names, and none of exclude."""
    seeds = "seeds = [0, 1, 2]\n"
    rules = 'include = [{method = "nai*"}, {seed = 1}]\nexclude = [{method = "naive", seed = [0, 2]}]\n'
    assert cells(load(seeds)) == {(m, s) for m in ("naive", "adjoint") for s in (0, 1, 2)}
    assert cells(load(seeds + rules)) == {("naive", 1), ("adjoint", 1)}


def cells(suite):
    return {(run.method, run.seed) for run in suite.runs()}


def test_rule_about_an_option(load):
    """A dot leads to one option; a run without it does not match."""
    grid = 'methods=["naive", {gradient = "interpolation", gradient_options = {num_nodes = [4, 8]}}]'
    runs = load('exclude = [{"gradient_options.num_nodes" = 8}]\n', grid).runs()
    assert {run.method for run in runs} == {"naive", "interpolation num_nodes=4"}


@pytest.mark.parametrize(
    ("top", "message"),
    [
        ('exclude = [{methd = "naive"}]', r"exclude\.0: unknown field of a run 'methd': did you mean 'method'"),
        ('include = [{gradient_options = "x"}]', r"include\.0: unknown field of a run 'gradient_options'"),
        ("tolerances = [true]", r"tolerances\.0: expected a number or a table of rtol and atol, got True"),
        ("tolerances = [-1.0]", r"tolerances\.0\.rtol: expected a number greater than 0\.0, got -1\.0"),
        ('devices = ["tpu"]', r"devices\.0: expected 'cpu' or 'cuda', got 'tpu'"),
        ('devices = ["cpu", "cpu"]', r"devices\.1: expected entries that differ"),
        ('passes = ["count", "diagnose"]', r"passes: expected 'train' where there is 'diagnose'"),
        ('passes = ["tim"]', r"passes\.0: expected 'time', 'count', 'memory', 'train' or 'diagnose', got 'tim'"),
        ('optimizers = ["adm"]', r"methods\.0 \(.*\): unknown optimizer 'adm': did you mean 'adam'"),
        ('optimizers = ["adam", "adam"]', r"methods\.0: expected entries that differ"),
        ("tuning = {seed = 0}", r"tuning\.seed: expected a seed that no run has, got 0"),
        ("tuning = {seeds = 0}", r"tuning\.seeds: unknown key 'seeds': did you mean 'seed'"),
    ],
)
def test_mistake_on_an_axis_is_answered(load, top, message):
    """Everything is checked before anything runs."""
    with pytest.raises(SuiteError, match=message):
        load(top + "\n")


def test_passes_are_in_the_run_and_all_of_them_are_the_default(load):
    """The order is that of the passes, whatever the file's; ids of runs with every pass stay as they were."""
    assert {run.passes for run in load("", 'passes=["train", "count"]').runs()} == {"count,train"}
    every = load("", 'passes=["count", "memory", "time", "train", "diagnose"]').runs()
    assert [run.run_id for run in every] == [run.run_id for run in load().runs()]


def test_later_fields_leave_older_ids_alone():
    """The id of a run that uses none of the newer fields is the one it had before there were any."""
    old = Run("quick", "digits", "tiny", "naive", "adam", "dopri5", 0, 1e-3, 1e-3, 80, method="naive")
    assert old.run_id == "4936439e15061823"
    assert Run(**{**old.__dict__, "evaluations": 40}).run_id != old.run_id


def test_a_grid_is_counted_before_it_is_expanded():
    """A thousand million runs are refused at once; the count of an ordinary suite is that of its runs."""
    whole = {
        "name": "m",
        "methods": [{"gradient": "interpolation", "gradient_options": {"num_nodes": [4, 8]}}, "naive"],
    }
    whole |= {"optimizers": ["adam", {"name": "sgd", "options": {"lr": [0.1, 0.2]}}], "tolerances": [1e-3, 1e-4]}
    whole |= {"solvers": [{"name": "dopri5"}], "tasks": [{"name": "linear", "size": ["tiny", "default"]}]}
    content = validate(whole, "m.toml")
    cells = [cell for place in range(2) for cell in method_cells(content, place)]
    assert count_runs(content) == len(cells) * len(solver_cells(content)) * 2
    huge = validate(whole | {"seeds": list(range(1000)), "tolerances": [1e-3 / (i + 1) for i in range(1000)]}, "m.toml")
    with pytest.raises(SuiteError, match=r"m\.toml: expected at most 1,000,000 runs, got 18,000,000 before include"):
        check_count(huge, "m.toml")


@pytest.mark.parametrize(("key", "value"), [("iterations", 10**10), ("seeds", [2**63]), ("evaluations", 10**400)])
def test_numbers_have_upper_bounds(key, value):
    """What cannot end, or fits in no column, is refused with the bound."""
    whole = {"name": "m", "methods": ["naive"], "solvers": [{"name": "rk4"}], "tasks": [{"name": "linear"}]}
    if key == "iterations":
        whole["tasks"][0][key] = value
    else:
        whole[key] = value
    with pytest.raises(SuiteError, match=r"expected a number (of at most 1000000000|less than 9223372036854775808)"):
        validate(whole, "m.toml")
