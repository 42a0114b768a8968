"""The command line, through ``main`` and through real processes: what it prints where, and its exit codes."""

import importlib.metadata
import inspect
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from rich.console import Console

import odegrad.checks.conformance
import odegrad.running.runner
from odegrad.catalogue import METHODS, TASKS
from odegrad.checks.result import CheckResult, at_most
from odegrad.commands import listing
from odegrad.commands.printing import print_rows
from odegrad.methods.gradients.interpolation import Interpolation
from odegrad.methods.optimizers.snopt.optimizer import SNOpt
from odegrad.records.record import Record, Run, Status
from odegrad.records.shard import RECORDS
from odegrad.running.runner import SweepOutcome

MODEL = Path(__file__).parents[3] / "docs" / "examples" / "my_model.py:build"

SUITE = """
name = "mine"
methods = ["naive", "my_method.py:Mine"]
passes = ["time", "count", "train"]

[[solvers]]
name = "rk4"
options = {num_steps = 2}

[[tasks]]
name = "digits"
size = "tiny"
iterations = 2
"""

METHOD = """
from dataclasses import dataclass

from odegrad.methods.gradients.naive import Naive

print("imported")


@dataclass(frozen=True)
class Mine(Naive):
    def __call__(self, field, solver, y0, ts):
        print("solving")
        if BROKEN:
            raise ValueError("my own mistake")
        return super().__call__(field, solver, y0, ts)
"""


@pytest.fixture
def suite(tmp_path):
    """Return the path of a suite with a method of one's own, which works."""
    return write_suite(tmp_path, broken=False)


def write_suite(folder, broken):
    (folder / "my_method.py").write_text(METHOD + f"\n\nBROKEN = {broken}\n")
    (folder / "mine.toml").write_text(textwrap.dedent(SUITE))
    return folder / "mine.toml"


def command_line(*arguments, cwd, **settings):
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "odegrad.cli", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **settings},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_help_has_examples(run_main):
    """The help names the commands and shows how to use them."""
    code, out, _ = run_main("--help")
    assert code == 0
    assert "odegrad run quick" in out
    assert "odegrad check my_method.py:MyMethod" in out


def test_version_is_the_distributions(run_main):
    """One line, as other tools print it."""
    code, out, _ = run_main("--version")
    assert (code, out) == (0, f"odegrad {importlib.metadata.version('odegrad')}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "niave"], "did you mean 'naive'{near}? odegrad list methods and odegrad list tasks tell all {all}"),
        (["diagnose", "digit"], "did you mean 'digits'{near}? odegrad list tasks tells all {tasks}"),
        (["list", "method"], "did you mean 'methods'? known are methods, optimizers, "),
    ],
)
def test_unknown_names_are_answered_with_the_nearest_and_not_with_all(run_main, arguments, message):
    """At most three names, and the command that tells the others; few are all told."""
    code, _, error = run_main(*arguments)
    start, _, rest = message.partition("{near}")
    rest = rest.format(all=len(METHODS) + len(TASKS), tasks=len(TASKS))
    assert code == 2
    assert start in error
    assert rest in error
    assert len(error) < 250


TRAITS = """
from dataclasses import dataclass
from typing import ClassVar
from odegrad.contracts import Traits

class Mine:
    traits = Traits(name="mine", summary="mine", paper="none"{more})

    def __call__(self, field, solver, y0, ts):
        return y0

    def refuses(self, solver):
        return None
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            TRAITS.replace("{more}", ""),
            "mine.py:7: Traits: expected exact, memory, cost_forward, cost_backward, backward_phase too, got none; "
            "odegrad.contracts.Traits says what each field states",
        ),
        (TRAITS.replace("{more}", ", colour=1"), "mine.py:7: Traits: got colour, which is no field of it"),
        (
            "class Mine:\n    pass\n",
            "expected a class with traits = Traits(...) of odegrad.contracts, got Mine w",
        ),
    ],
)
def test_method_without_its_traits_is_one_sentence(run_main, tmp_path, text, message):
    """Python's own TypeError counts arguments; this one names the fields and where they are told."""
    (tmp_path / "mine.py").write_text(text)
    code, _, error = run_main("compare", str(MODEL), "--gradients", f"{tmp_path / 'mine.py'}:Mine")
    assert code == 2
    assert message in error
    assert "Traceback" not in error


def test_help_and_results_need_no_torch(tmp_path):
    """Neither the help, nor what there is by name, nor a wrong results folder imports torch: these answer at once."""
    program = "import sys; sys.modules['torch'] = None; from odegrad.cli import main; main()"
    lists = [(["list", kind], 0) for kind in DETAILS]
    for arguments, code in ((["run", "--help"], 0), *lists, (["report", "gone"], 2)):
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quik"], "error: unknown suite 'quik': did you mean 'quick'?"),
        (["plan", "gone.toml"], "error: suite 'gone.toml': expected a file"),
        (["plan", "quick", "--set", "seed=3"], "error: --set seed=3: unknown key 'seed': did you mean"),
        (["plan", "quick", "--set", 'methods=["niave"]'], "unknown method 'niave': did you mean 'naive'"),
        (["report", "gone"], "error: results folder gone: expected a folder, got nothing there"),
        (["check", "niave"], "error: unknown gradient method or task 'niave': did you mean 'naive'"),
        (["check", "digts"], "error: unknown gradient method or task 'digts': did you mean 'digits'"),
        (["check", "digits", "--solver", "rk4"], "error: --solver rk4: expected none with a task"),
        (["check", "gone.py:Mine"], "error: gradient method or task 'gone.py:Mine': there is no file"),
        (["run", "quick", "--threads", "0"], "--threads"),
        (["list", "method"], "error: unknown kind 'method': did you mean 'methods'?"),
        (["rum"], "rum"),
    ],
)
def test_wrong_usage_exits_with_2_and_a_message(run_main, tmp_path, monkeypatch, arguments, message):
    """A mistake is one message on standard error, without a traceback, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    code, out, error = run_main(*arguments)
    assert (code, out) == (2, "")
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


DETAILS = {
    "methods": ("memory", "cost_forward", "cost_backward", "paper"),
    "optimizers": ("options",),
    "regularisers": ("options",),
    "solvers": ("order", "calls_per_step", "adaptive", "dense_output", "source"),
    "tasks": ("sizes", "parameters", "state", "metric", "target"),
    "suites": (),
}


@pytest.mark.parametrize("kind", DETAILS)
def test_list_prints_a_table_or_json(run_main, kind):
    """Every name in the JSON is in both tables; what needs more than the catalogue is in the detailed one."""
    code, out, _ = run_main("list", kind, "--json")
    rows = json.loads(out)
    assert code == 0
    assert rows
    _, table, _ = run_main("list", kind)
    _, detailed, _ = run_main("list", kind, "--details")
    assert all(row["name"] in table for row in rows)
    assert all(row["name"] in detailed for row in rows)
    for column in DETAILS[kind]:
        assert all(column in row for row in rows)
        assert column.replace("_", " ") in detailed
        assert column.replace("_", " ") not in table.partition(rows[0]["name"])[0]


def test_list_without_a_kind_lists_everything(run_main):
    """The methods carry what they state about themselves; a published pair is among them."""
    _, out, _ = run_main("list", "--json")
    rows = json.loads(out)
    methods = {row["name"]: row for row in rows["methods"]}
    assert set(rows) == {"methods", "optimizers", "regularisers", "solvers", "tasks", "suites"}
    assert methods["naive"]["exact"] is True
    assert methods["adjoint"]["exact"] is False
    assert "adjoint" in methods["snopt"]["summary"]
    assert methods["interpolation"]["options"]["num_nodes"] == Interpolation().num_nodes
    optimizers = {row["name"]: row["options"] for row in rows["optimizers"]}
    assert (optimizers["adam"]["lr"], optimizers["adam"]["betas"]) == (1e-3, [0.9, 0.999])
    snopt = {name: p.default for name, p in inspect.signature(SNOpt).parameters.items() if name in optimizers["snopt"]}
    assert {"eps", "alpha", "update_freq", "step_size", "kl_clip"} <= snopt.keys()
    assert {name: optimizers["snopt"][name] for name in snopt if name != "full_precond"} == {
        name: value for name, value in snopt.items() if name != "full_precond"
    }
    assert optimizers["snopt"]["full_precond"] is None  # the task's own


def test_plan_prints_the_grid(run_main, suite):
    """The JSON of a plan is the runs themselves."""
    code, out, _ = run_main("plan", str(suite), "--device", "cpu", "--json")
    runs = [Run.from_dict(row) for row in json.loads(out)]
    assert code == 0
    assert {r.gradient for r in runs} == {"naive", "my_method.py:Mine"}
    assert [r.run_id for r in runs] == [row["run_id"] for row in json.loads(out)]
    _, table, _ = run_main("plan", str(suite), "--device", "cpu", "--no-predict")
    assert all(r.method in table for r in runs)


def test_check_prints_figures_and_fails_if_one_fails(run_main, monkeypatch):
    """Every check has its figure and threshold; one that fails makes the exit code 1."""
    results = [
        at_most("G1 closed form", 2.5e-9, 1e-6, "growth [0, 1]"),
        CheckResult("G13", True, None, None, "refused"),
    ]
    monkeypatch.setattr(odegrad.checks.conformance, "check", lambda name, solver: iter(results))
    code, out, _ = run_main("check", "naive")
    assert code == 0
    assert all(word in out for word in ("G1 closed form", "2.5e-09", "1e-06", "growth [0, 1]", "2 of 2 checks passed"))
    results.append(at_most("G2", 1.0, 1e-6, "off"))
    code, out, _ = run_main("check", "naive", "--json")
    assert code == 1
    assert [row["passed"] for row in json.loads(out)] == [True, True, False]


@pytest.mark.parametrize(
    ("outcome", "code", "words"),
    [
        (SweepOutcome({Status.OK: 2}, 2, 2, 0), 0, ""),
        (SweepOutcome({Status.OK: 1, Status.UNSUPPORTED: 1}, 2, 2, 0), 0, ""),
        (SweepOutcome({Status.OK: 1, Status.ERROR: 1}, 2, 1, 0), 3, "1 of 2 runs failed; their rows say why"),
        (SweepOutcome({Status.INFRASTRUCTURE: 2}, 2, 2, 2), 75, "2 of 2 runs failed because of this machine"),
        (SweepOutcome({Status.OK: 2, Status.INFRASTRUCTURE: 1}, 3, 3, 1), 75, "1 of 3 runs are missing"),
        (SweepOutcome({Status.ERROR: 2, Status.INFRASTRUCTURE: 1}, 3, 0, 0), 75, "1 of 3 runs are missing"),
        (SweepOutcome({Status.OK: 1}, 2, 1, 0, interrupted=True), 130, "interrupted: 1 of 2 runs are finished"),
    ],
)
def test_exit_code_says_how_the_sweep_went(run_main, monkeypatch, suite, outcome, code, words):
    """0 fine, 3 some runs failed, 75 the machine failed, 130 interrupted."""
    monkeypatch.setattr(odegrad.running.runner, "run_suite", lambda *a, **k: outcome)
    monkeypatch.setattr("odegrad.commands.running.write_report", lambda folder: None)
    found, _, error = run_main("run", str(suite), "--device", "cpu")
    assert (found, words in error) == (code, True), error


def test_missing_device_is_refused(run_main, monkeypatch, suite):
    """A CUDA device that is not there is refused before any work."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, error = run_main("run", str(suite), "--device", "cuda")
    assert code == 2
    assert "expected a CUDA device that torch can use, got none; use --device cpu" in error


def test_run_with_a_method_of_ones_own(tmp_path):
    """From another folder: a method that raises costs its own row only; once it is mended only its run is measured.

    Standard output holds the table and nothing else, whatever the method prints.
    """
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    broken = command_line("run", write_suite(tmp_path, broken=True), "--device", "cpu", cwd=elsewhere)
    assert broken.returncode == 3, broken.stderr
    assert "time pass: ValueError: my own mistake (my_method.py:" in broken.stderr
    assert "1 of 2 runs failed; their rows say why" in broken.stderr
    first, lines = read_records(elsewhere)
    assert {r.run.method: r.status for r in first} == {"naive": Status.OK, "my_method.py:Mine": Status.ERROR}

    mended = command_line("run", write_suite(tmp_path, broken=False), "--device", "cpu", cwd=elsewhere)
    assert mended.returncode == 0, mended.stderr
    assert "2 runs on cpu, 1 finished before" in mended.stderr
    second, more = read_records(elsewhere)
    assert more.startswith(lines)
    measured = {r.run.method: r.measured for r in second if r.status is Status.OK}
    assert len(second) == 3
    for column in ("train_loss", "nfe_forward", "gradient_relative_error", "metric_value"):
        assert measured["naive"][column] == measured["my_method.py:Mine"][column]
    for done in (broken, mended):
        assert "Traceback" not in done.stderr
        assert "my_method.py:Mine" in done.stdout
        assert not any(word in done.stdout for word in ("imported", "solving", "runs on cpu"))


def read_records(folder):
    """Return the records that a sweep left, and their bytes."""
    lines = (folder / "results" / "mine" / RECORDS).read_bytes()
    return [Record.from_row(json.loads(line)) for line in lines.splitlines()], lines


def test_terminated_command_exits_with_130(tmp_path, suite):
    """A polite kill ends the command like Ctrl-C, with a message; what was finished stays readable."""
    log = tmp_path / "log"
    command = ["-v", "run", str(suite), "--device", "cpu", "--set", "iterations=1000000", "--results", "out"]
    with log.open("w") as error:
        process = subprocess.Popen(
            [sys.executable, "-m", "odegrad.cli", *command],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=error,
            text=True,
        )
    begin = time.monotonic()
    while "started digits" not in log.read_text() and time.monotonic() - begin < 60:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), log.read_text()
    words = "interrupted: 0 of 2 runs are finished and in out; the same command again runs the others"
    assert words in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("kind", ["methods", "optimizers", "solvers", "tasks", "suites"])
def test_lists_are_tables_on_a_terminal_of_100_columns(monkeypatch, capsys, kind):
    """A row a name, and nothing is cut."""
    monkeypatch.setattr("odegrad.commands.printing.output", lambda: Console(width=100))
    rows = listing.LISTINGS[kind]()
    print_rows(rows, False, kind, wrap=True)
    out = capsys.readouterr().out
    lines = [line.rstrip() for line in out.splitlines()]
    assert max(map(len, lines)) <= 100
    assert sum(line.endswith("│") for line in lines) >= len(rows)
    assert all(f"│ {row['name']} " in out for row in rows)


def test_rows_too_wide_for_a_terminal_become_blocks(monkeypatch, capsys):
    """Nothing is cut: a table where there is room, a block a row where there is not."""
    rows = [{"name": "naive", "paper": "word " * 30}, {"name": "adjoint", "paper": "short"}]
    print_rows(rows, False, "methods")
    wide = capsys.readouterr().out
    monkeypatch.setattr("odegrad.commands.printing.output", lambda: Console(width=60))
    print_rows(rows, False, "methods")
    narrow = capsys.readouterr().out
    assert "│" in wide
    assert "│" not in narrow
    assert narrow.count("word") == wide.count("word") == 30
    assert max(map(len, narrow.splitlines())) <= 60
