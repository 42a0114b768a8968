"""Suite files: what they expand to, and what is answered to a wrong one."""

import re
import textwrap
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import odegrad.suites
from odegrad.datasets.tasks.digits import Digits
from odegrad.errors import SuiteError, UnknownNameError
from odegrad.records.record import EVALUATIONS
from odegrad.registry import tasks
from odegrad.suites.shipped import suite_description, suite_names
from odegrad.suites.suite import load_suite, override

POLICIES = ("baseline", "feedback")

SMALL = """
name = "small"
methods = ["naive", {gradient = "interpolation", gradient_options = {num_nodes = 6}, name = "six nodes"}]
seeds = [0, 1, 2]

[[solvers]]
name = "dopri5"
rtol = 1e-4

[[solvers]]
name = "rk4"
options = {num_steps = 5}

[[tasks]]
name = "digits"
size = "tiny"

[[tasks]]
name = "digits"
size = "default"
rtol = 1e-2
iterations = 7
"""

METHOD_FILE = """
from dataclasses import dataclass

from odegrad.methods.gradients.naive import Naive


@dataclass(frozen=True)
class Mine(Naive):
    times: int = 1
"""


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a suite file and returns its path."""

    def write_suite(text):
        path = tmp_path / "my.toml"
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write_suite


def test_suite_expands_to_the_whole_grid(write):
    """Methods x solvers x tasks x seeds, each cell once, with tolerances and iterations from where they are set."""
    runs = load_suite(write(SMALL)).runs()
    assert len(runs) == len({r.run_id for r in runs}) == 2 * 2 * 2 * 3
    cells = Counter((r.method, r.solver, r.size, r.seed) for r in runs)
    assert set(cells.values()) == {1}
    assert {(r.solver, r.size): (r.rtol, r.atol) for r in runs} == {
        ("dopri5", "tiny"): (1e-4, 1e-5),
        ("rk4", "tiny"): (1e-5, 1e-5),
        ("dopri5", "default"): (1e-2, 1e-5),
        ("rk4", "default"): (1e-2, 1e-5),
    }
    assert {r.size: r.iterations for r in runs} == {
        "tiny": Digits.settings["tiny"].training.iterations,
        "default": 7,
    }
    assert {r.solver: r.solver_options for r in runs} == {"dopri5": (), "rk4": (("num_steps", 5),)}
    by_method = {r.method: (r.gradient, r.gradient_options, r.optimizer) for r in runs}
    assert by_method == {
        "naive": ("naive", (), "adam"),
        "six nodes": ("interpolation", (("num_nodes", 6),), "adam"),
    }
    assert {(r.suite, r.device, r.dtype, r.code) for r in runs} == {("small", "cpu", "float32", "")}


def test_order_is_of_randomised_complete_blocks(write):
    """All methods of one (seed, task, solver) stand together, in an order that varies, and always the same way."""
    methods = '["naive", "adjoint", "anode", "interpolation"]'
    suite = load_suite(write(SMALL), [f"methods={methods}", "seeds=[0, 1, 2, 3, 4]"])
    runs = suite.runs()
    blocks = [runs[i : i + 4] for i in range(0, len(runs), 4)]
    assert all(len({(r.seed, r.size, r.solver) for r in block}) == 1 for block in blocks)
    assert all({r.method for r in block} == {"naive", "adjoint", "anode", "interpolation"} for block in blocks)
    assert len({tuple(r.method for r in block) for block in blocks}) > 5
    assert runs == load_suite(write(SMALL), [f"methods={methods}", "seeds=[0, 1, 2, 3, 4]"]).runs()


def test_published_pair_and_open_optimizer(write):
    """The pair snopt is adjoint with SNOpt; a method with an optimizer of its own is shown with it."""
    pytest.importorskip("odegrad.methods.optimizers.snopt.optimizer")
    text = 'methods=["snopt", {gradient = "naive", optimizer = "sgd", optimizer_options = {lr = 0.1}}]'
    runs = load_suite(write(SMALL), [text, "seeds=[0]"]).runs(device="cuda")
    found = {r.method: (r.gradient, r.optimizer, r.optimizer_options, r.device) for r in runs}
    assert found == {
        "snopt": ("adjoint", "snopt", (), "cuda"),
        "naive+sgd": ("naive", "sgd", (("lr", 0.1),), "cuda"),
    }


def test_relative_file_is_looked_up_beside_the_suite(write, tmp_path, monkeypatch):
    """A run keeps the name as typed, so that its id does not depend on where the folder lies."""
    monkeypatch.chdir(Path(__file__).parents[1])
    (tmp_path / "my_method.py").write_text(METHOD_FILE)
    overrides = ['methods=["my_method.py:Mine"]', "seeds=[0]"]
    suite = load_suite(write(SMALL), overrides)
    run = suite.runs()[0]
    assert suite.folder == tmp_path
    assert (run.gradient, run.method) == ("my_method.py:Mine", "my_method.py:Mine")
    assert len(run.code) == 16
    (tmp_path / "my_method.py").write_text(METHOD_FILE + "\n# a comment\n")
    assert load_suite(write(SMALL), overrides).runs()[0].run_id == run.run_id
    (tmp_path / "my_method.py").write_text(METHOD_FILE.replace("= 1", "= 2"))
    assert load_suite(write(SMALL), overrides).runs()[0].run_id != run.run_id


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds", "sedes", r"my\.toml: sedes: unknown key 'sedes': did you mean 'seeds'"),
        ("seeds = [0, 1, 2]", "seeds = 3", r"my\.toml: seeds: expected a list, got 3"),
        ("seeds = [0, 1, 2]", 'seeds = ["a"]', r"my\.toml: seeds\.0: expected a whole number, got 'a'"),
        ("seeds = [0, 1, 2]", "seeds = [true]", r"seeds\.0: expected a whole number, got True"),
        ("seeds = [0, 1, 2]", "seeds = [-1]", r"seeds\.0: expected a number of at least 0, got -1"),
        ("seeds = [0, 1, 2]", "seeds = []", r"seeds: expected at least one entry, got \[\]"),
        ("seeds = [0, 1, 2]", "seeds = [4, 4]", r"seeds\.1: expected entries that differ, got the same as seeds\.0"),
        (
            "seeds = [0, 1, 2]",
            'dtype = "half"',
            r"dtype\.0: expected 'float32', 'float64', 'bfloat16' or 'float16', got 'half'",
        ),
        ("rtol = 1e-4", 'rtol = "1e-4"', r"solvers\.0\.rtol: expected a number, got '1e-4'"),
        ("rtol = 1e-4", "rtol = 0", r"solvers\.0\.rtol: expected a number greater than 0"),
        ("rtol = 1e-4", "rtol = inf", r"solvers\.0\.rtol: expected a finite number, got inf"),
        (
            "num_steps = 5",
            "num_steps = [5]",
            r"solvers\.1\.options\.num_steps: expected a string, a number or a boolean",
        ),
        ("num_steps = 5", "num_step = 5", r"solvers\.1 \(rk4\): solver rk4: unknown option 'num_step'"),
        ("num_steps = 5", "num_steps = -5", r"solvers\.1 \(rk4\): num_steps: expected a positive number, got -5"),
        (
            "num_nodes = 6",
            "nodes = 6",
            r"methods\.1 \(six nodes\): unknown option 'nodes' .* 'num_nodes'",
        ),
        ('"naive"', "7", r"methods\.0: expected a string or a table, got 7"),
        ('"naive"', '"niave"', r"my\.toml: methods\.0 \(niave\): unknown method 'niave': did you mean 'naive'"),
        ('"naive"', '"six nodes"', r"methods\.0 \(six nodes\): unknown method 'six nodes'"),
        ('"naive"', '{gradient = "naive", name = "six nodes"}', r"methods\.1: expected entries that differ"),
        ('"naive"', '{gradient = "naive", optimizer = "adm"}', r"unknown optimizer 'adm': did you mean 'adam'"),
        (
            '"naive"',
            '{gradient = "naive", optimizer_options = {lrr = 1}}',
            r"methods\.0 \(naive\): unknown option 'lrr' of optimizer 'adam': did you mean 'lr'",
        ),
        (
            '"naive"',
            '{gradient = "naive", optimizer_options = {lr = -1}}',
            r"methods\.0 \(naive\): optimizer 'adam' with options .*: Invalid learning rate: -1",
        ),
        (
            '"naive"',
            '{gradient = "snopt", optimizer_options = {kl_klip = 1}}',
            r"methods\.0 \(snopt\): unknown option 'kl_klip' of optimizer 'snopt': did you mean 'kl_clip'",
        ),
        ('"naive"', '{gradients = "naive"}', r"methods\.0\.gradient: expected a value, got nothing"),
        ('"naive"', '"gone.py:Mine"', r"methods\.0 \(gone.py:Mine\): gradient method '.*gone.py:Mine': there is no"),
        ('"dopri5"', '"dopri"', r"my\.toml: solvers\.0 \(dopri\): unknown solver 'dopri': did you mean .*'dopri5'"),
        ('"digits"', '"digit"', r"my\.toml: tasks\.0 \(digit\): unknown task 'digit': did you mean 'digits'"),
        ('size = "tiny"', 'size = "tyni"', r"tasks\.0 \(digits\): unknown size .* 'tyni': did you mean 'tiny'"),
        ("iterations = 7", "iterations = 7.5", r"tasks\.1\.iterations: expected a whole number, got 7\.5"),
        ("iterations = 7", "iterations = 0", r"tasks\.1\.iterations: expected a number greater than 0, got 0"),
        ("iterations = 7", "seed = 7", r"tasks\.1\.seed: unknown key 'seed'.*known are atol, iterations, name"),
        ('"small"', '"../small"', r"name: expected letters, digits, '_', '-' and '\.', got '\.\./small'"),
        ('name = "small"', "", r"my\.toml: name: expected a value, got nothing; add this key"),
        ('"small"', "small", r"my\.toml: expected TOML: Invalid value"),
    ],
)
def test_mistake_names_the_file_and_the_key(write, old, new, message):
    """Every mistake is answered before anything runs, with what was expected and what came."""
    assert old in SMALL
    with pytest.raises(SuiteError, match=message):
        load_suite(write(SMALL.replace(old, new, 1)))


def test_file_that_raises_is_blamed(write, tmp_path):
    """A user's file that cannot be imported is the suite's mistake, with the error's type."""
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(
        SuiteError, match=r"methods\.0 \(broken.py:Mine\): .*broken.py:1: ModuleNotFoundError: No module named"
    ):
        load_suite(write(SMALL), ['methods=["broken.py:Mine"]'])


def test_unknown_suite_names_the_nearest():
    """A name that is no suite, and a path without a file, are told apart."""
    with pytest.raises(UnknownNameError, match="unknown suite 'quik': did you mean 'quick'"):
        load_suite("quik")
    with pytest.raises(SuiteError, match=r"suite 'gone\.toml': expected a file or one of \['gate', "):
        load_suite("gone.toml")


def test_overrides_are_read_as_toml():
    """An override of a task's key reaches every task; a word without quotes is text."""
    data = {"name": "a", "tasks": [{"name": "x"}, {"name": "y", "rtol": 1.0}], "seeds": [0]}
    found = override(data, ["seeds=[3, 4]", "rtol = 1e-2", "dtype=float64", "iterations=5"])
    assert found == {
        "name": "a",
        "seeds": [3, 4],
        "dtype": "float64",
        "tasks": [{"name": "x", "rtol": 1e-2, "iterations": 5}, {"name": "y", "rtol": 1e-2, "iterations": 5}],
    }
    assert data["tasks"][0] == {"name": "x"}


def test_override_of_the_tuning_needs_one():
    """A key of the tuning is set beside the others; a suite without tuning does not begin to tune."""
    found = override({"name": "a", "tuning": {"seed": 9, "by": "loss"}}, ["tuning.iterations=5", "tuning.seed=8"])
    assert found["tuning"] == {"seed": 8, "by": "loss", "iterations": 5}
    with pytest.raises(SuiteError, match=r"--set tuning\.seed: expected a suite that tunes"):
        override({"name": "a"}, ["tuning.seed=8"])


@pytest.mark.parametrize("text", ["name=other", "solvers=[]", "seed=1", "tuning.sed=1", "=1"])
def test_override_that_cannot_be_is_refused(text):
    """Only known keys with a value can be overridden."""
    with pytest.raises(
        SuiteError, match=rf"--set {re.escape(text)}: unknown key '.*': .*known are .*iterations, .*tuning\.seed, "
    ):
        override({}, [text])


def test_override_without_a_value_is_refused():
    """The form is told."""
    with pytest.raises(SuiteError, match="--set seeds: expected KEY=VALUE, got no '='"):
        override({}, ["seeds"])


def test_misspelt_override_names_the_nearest():
    """Keys of tasks, of the top and of the tuning."""
    for text, meant in (("iteration=5", "iterations"), ("tuning.sed=5", "tuning.seed"), ("pases=[]", "passes")):
        with pytest.raises(SuiteError, match=rf"--set .*: unknown key .*: did you mean .*'{re.escape(meant)}'"):
            override({}, [text])


def test_override_of_a_wrong_type_is_refused(write):
    """An override is checked like the file."""
    with pytest.raises(SuiteError, match="seeds: expected a list, got 1"):
        load_suite(write(SMALL), ["seeds=1"])


def test_digest_follows_the_content(write):
    """Two readings of one suite agree; an override changes the digest, not the name."""
    first, second = load_suite(write(SMALL)), load_suite(write(SMALL))
    changed = load_suite(write(SMALL), ["seeds=[9]"])
    assert first.digest == second.digest != changed.digest
    assert first.name == changed.name == "small"


def test_suites_that_come_with_odegrad_say_what_they_are():
    """Each has a description."""
    assert "quick" in suite_names()
    assert all(suite_description(name) for name in suite_names())


def test_quick_holds_the_five_methods_on_two_tasks():
    """The quick suite is five methods and two peers, two tasks and two seeds."""
    pytest.importorskip("odegrad.methods.optimizers.snopt.optimizer")
    runs = load_suite("quick").runs()
    five = {"naive", "adjoint", "anode", "interpolation", "snopt"}
    assert {r.method for r in runs} == five | {"torchdiffeq_naive", "torchdiffeq_adjoint"}
    assert {r.task for r in runs} == {"digits", "circles"}
    assert len(runs) == 7 * 2 * 2


@pytest.mark.parametrize("name", ["snopt-digits", "snopt-circles", "snopt-vowels"])
def test_optimizers_are_compared_by_equal_budgets(name):
    """Adam, SGD with momentum and SNOpt: one gradient method, six trials each, five seeds that are none of theirs."""
    suite = load_suite(name)
    trials, cells = suite.trials(), suite.content
    assert Counter(trial.optimizer for trial in trials) == {"adam": 6, "sgd": 6, "snopt": 6}
    assert {trial.gradient for trial in trials} == {"adjoint"}
    assert {trial.seed for trial in trials}.isdisjoint(cells.seeds)
    assert len(cells.seeds) == 5
    assert {dict(t.optimizer_options)["momentum"] for t in trials if t.optimizer == "sgd"} == {0.9}
    assert all(trial.evaluations > EVALUATIONS for trial in trials)


def test_end_times_are_compared_with_one_optimizer():
    """The horizon suite varies the policy of the end time, each at the same two step sizes, and nothing else."""
    runs = load_suite("snopt-horizon").runs()
    options = {run.method: dict(run.optimizer_options) for run in runs}
    found = {method: (each.pop("t1_policy", ""), each.pop("t1_lr", 0.0)) for method, each in options.items()}
    wanted = {f"{policy}{shown}": (policy, lr) for policy in POLICIES for shown, lr in (("", 0.2), (", 5 x lr", 1.0))}
    assert found == {"fixed": ("", 0.0), **wanted}
    penalised = options.pop("baseline")
    assert all(each in (penalised, options["fixed"]) for each in options.values())
    assert penalised == options["fixed"] | {"t1_update_freq": 10, "t1_penalty": 0.05}
    assert len(runs) == 15


def test_tasks_tiny_holds_every_offline_task():
    """A task that works offline is in the suite, and no other is."""
    offline = {name for name in tasks.names() if tasks.get(name).info.offline}
    with (Path(odegrad.suites.__file__).parent / "tasks-tiny.toml").open("rb") as file:
        content = tomllib.load(file)
    assert {task["name"] for task in content["tasks"]} == offline
    assert {task["size"] for task in content["tasks"]} == {"tiny"}
