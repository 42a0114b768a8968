"""Every block of code in the README and the docs: commands parse and run, tests pass, suites load."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from odegrad.cli import app
from odegrad.suites.suite import load_suite

ROOT = Path(__file__).parent.parent


def _blocks(language):
    """Yield (page, text) of every fenced block in that language in the README and the docs."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            yield page.name, block


SCRIPTS = ("run", "script", "before_script", "after_script")
"""Keys of a CI recipe whose text a shell runs."""


def _scripts(node):
    """Yield every shell script in the data of a CI recipe."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in SCRIPTS and isinstance(value, str | list):
                yield "\n".join([value] if isinstance(value, str) else value)
            else:
                yield from _scripts(value)
    elif isinstance(node, list):
        for each in node:
            yield from _scripts(each)


def _calls(script, programs):
    """Return (program, arguments) of every call of one of ``programs`` in a shell script."""
    calls = []
    for line in script.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;|\|\|", line.partition(" #")[0]):
            words = part.strip().removeprefix("then ")
            calls += [(name, shlex.split(words)[1:]) for name in programs if words.startswith(f"{name} ")]
    return calls


def _commands(program):
    """Yield the arguments of every call of ``program`` in the README, the docs and the recipes in them."""
    scripts = [*_blocks("sh")]
    scripts += [(page, text) for page, block in _blocks("yaml") for text in _scripts(yaml.safe_load(block))]
    for page, script in scripts:
        for name, arguments in _calls(script, (program,)):
            yield pytest.param(arguments, id=f"{page}: {name} {shlex.join(arguments)}")


@pytest.mark.parametrize("arguments", list(_commands("odegrad")))
def test_command_in_the_documents_is_one(arguments):
    """Every command line parses: the command, its options and their values exist."""
    main = typer.main.get_command(app)
    with main.make_context("odegrad", arguments[:1], resilient_parsing=True) as context:
        name, command, rest = main.resolve_command(context, arguments)
        if hasattr(command, "resolve_command"):  # a command of commands
            name, command, rest = command.resolve_command(context, rest)
        command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("arguments", list(_commands("pytest")))
def test_pytest_command_in_the_documents_is_one(tmp_path, arguments):
    """Pytest knows every option, and the suite's cases are collected."""
    (tmp_path / "tests" / "benchmarks").mkdir(parents=True)
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    words = [word.replace("$TIMES", "gate-time") for word in arguments if word != "--benchmark-compare"]
    by_itself = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "--collect-only", "-q"],
        cwd=tmp_path, env=by_itself, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "odegrad::test_gradient[" in done.stdout


def test_test_in_the_documents_passes(tmp_path):
    """The test of docs/testing-and-ci.md beside the example method."""
    (block,) = [text for page, text in _blocks("python") if page == "testing-and-ci.md"]
    shutil.copy(ROOT / "docs" / "examples" / "my_method.py", tmp_path)
    (tmp_path / "test_mine.py").write_text(block, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_loop_in_the_documents_runs(tmp_path):
    """The training loop of docs/regularisers.md runs, and its suite has a row for each weight."""
    (block,) = [text for page, text in _blocks("python") if page == "regularisers.md"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    suite = next(text for page, text in _blocks("toml") if page == "regularisers.md")
    (tmp_path / "cheaper.toml").write_text(suite)
    assert len(load_suite(str(tmp_path / "cheaper.toml")).runs()) == 5


def test_example_of_per_sample_steps_runs_without_a_word(recwarn, capsys):
    """The first block of docs/per-sample.md, in float32: samples that repeat their last time have one state there."""
    block = next(text for page, text in _blocks("python") if page == "per-sample.md")
    names = {}
    exec(compile(block, "per-sample.md", "exec"), names)
    assert names["ys"].shape == (3, 4, 2)
    assert bool((names["ys"][1, 1] == names["ys"][2, 1]).all())
    assert not recwarn.list
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("page", ["ci-github.md", "ci-gitlab.md"])
def test_recipe_gates_times_and_benchmarks(page):
    """The YAML parses, and its scripts hold the exact gate, its update, the times and the benchmarks."""
    (block,) = [text for name, text in _blocks("yaml") if name == page]
    scripts = "\n".join(_scripts(yaml.safe_load(block)))
    for words in (
        "pip install",
        "--baseline",
        "--update --reason",
        "--base ",
        "--junit",
        "--markdown",
        "pytest ",
        "history add",
    ):
        assert words in scripts
    programs = [parameter.id for each in ("odegrad", "pytest") for parameter in _commands(each)]
    assert sum(name.startswith(f"{page}: ") for name in programs) == 7


def test_suite_in_the_documents_loads(tmp_path):
    """The example of docs/running.md expands to what its text says."""
    block = next(text for page, text in _blocks("toml") if page == "running.md")
    (tmp_path / "sweep.toml").write_text(block)
    runs = load_suite(str(tmp_path / "sweep.toml")).runs()
    methods = {run.method for run in runs}
    assert {"naive+adam", "adjoint+sgd", "interpolation+adam num_nodes=4"} <= methods
    assert len(methods) == 8
    left_out = [run for run in runs if run.gradient == "interpolation" and run.rtol == 1e-3]
    assert not left_out
    assert len(runs) == (8 * 2 - 4) * 2 * 3 * 2  # tolerances, less the excluded; sizes, seeds, types


ELSEWHERE = ("$SLURM_ARRAY_TASK_ID", "tcp://HOST:8786", "slurm")
"""Words of commands for other machines: tests/bench/running/test_cluster.py runs their like."""
LONG = {"--budget": "30", "default": "tiny"}
"""What takes long, and what is put in its place: the seconds of a gate, the size of a paper's tasks."""
SHORT = ("passes=['count','train']", "iterations=2")
"""Settings of a suite that is only run to see that it runs."""


def _shortened(program, arguments):
    """Return the command line, and shorter where it would take more than some minutes."""
    words = list(arguments)
    for option, value in LONG.items():
        if program == "odegrad" and words[0] in {"gate", "paper"} and option in words:
            place = words.index(option)
            words[place if option == "default" else place + 1] = value
    if words[:2] == ["run", "quick"]:
        words += [word for setting in SHORT for word in ("--set", setting)]
    module = "odegrad.cli" if program == "odegrad" else "pytest"
    return [sys.executable, "-m", module, *words]


def _project(folder):
    """Return a clone of this project on its branch main, whose state is that of the working tree's last commit."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    subprocess.run(["git", "checkout", "-q", "-B", "main"], cwd=folder, check=True)
    return folder


def _pages():
    """Return page -> (program, arguments) of every command in its shell blocks, in order."""
    pages = {}
    for page, script in _blocks("sh"):
        pages.setdefault(page, []).extend(_calls(script, ("odegrad", "pytest")))
    return {page: calls for page, calls in pages.items() if calls}


@pytest.mark.minutes
@pytest.mark.timeout(0)
@pytest.mark.parametrize("calls", [pytest.param(calls, id=page) for page, calls in _pages().items()])
def test_commands_of_a_page_run(tmp_path, calls):
    """One after the other in a clone of the project, as a reader would; recipes of CI services are left to those."""
    folder = _project(tmp_path / "project")
    by_itself = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}
    for program, arguments in calls:
        if any(word in argument for argument in arguments for word in ELSEWHERE):
            continue
        command = _shortened(program, arguments)
        done = subprocess.run(command, cwd=folder, env=by_itself, capture_output=True, text=True, check=False)
        print(f"{done.returncode}  {shlex.join(command[2:])}", flush=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_block_of_mixed_precision_trains(tmp_path):
    """The first block of docs/precision.md gives the weights float32 gradients."""
    block = next(text for page, text in _blocks("python") if page == "precision.md")
    check = "assert ys.dtype == torch.float32"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block + check],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
