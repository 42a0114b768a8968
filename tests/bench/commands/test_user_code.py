"""Code of a user's own is loaded in a measuring process only: whatever it does there, the command outlives it."""

import textwrap

import pytest

import odegrad.catalogue
from odegrad.commands.details import UNLOADABLE
from odegrad.processes.guarded import guarded

BEHAVIOURS = {
    "exits": ("import sys\nsys.exit(0)", ":2: SystemExit: 0"),
    "exits_hard": ("import os\nos._exit(0)", "the process ended with exit code 0 and without a result"),
    "hangs": ("import time\ntime.sleep(1000)", "stopped after 1 s"),
    "raises": ("raise KeyError('mine')", ":1: KeyError: 'mine'"),
    "ends_with_children": (
        "import os, time\nif os.fork() == 0: time.sleep(1000)\nos._exit(0)",
        "the process ended with exit code 0 and without a result",
    ),
}

SUITE = """
name = "mine"
methods = ["naive", "{name}.py:Mine"]
[[solvers]]
name = "rk4"
options = {{num_steps = 2}}
[[tasks]]
name = "linear"
size = "tiny"
"""

COMMANDS = {
    "run": ("run", "{suite}", "--device", "cpu"),
    "plan": ("plan", "{suite}", "--device", "cpu"),
    "gate": ("gate", "{suite}", "--baseline", "new.json", "--update", "--reason", "first"),
    "check": ("check", "{file}"),
    "compare": ("compare", "{file}"),
    "diagnose": ("diagnose", "{file}"),
}


@pytest.fixture
def attempt(run_main, tmp_path, monkeypatch):
    """Return a function that runs a command on a file that behaves so; 1 s is its limit where it hangs."""
    monkeypatch.chdir(tmp_path)

    def call(command, behaviour):
        (tmp_path / f"{behaviour}.py").write_text(BEHAVIOURS[behaviour][0])
        (tmp_path / "mine.toml").write_text(textwrap.dedent(SUITE.format(name=behaviour)))
        names = {"suite": "mine.toml", "file": f"{behaviour}.py:Mine"}
        limit = ("--timeout", "1") if behaviour == "hangs" else ()
        return run_main(*(word.format(**names) for word in COMMANDS[command]), *limit)

    return call


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("behaviour", ["exits", "exits_hard"])
def test_a_file_that_ends_its_process_is_no_success(attempt, tmp_path, command, behaviour):
    """Exit code 2 and a sentence, nothing printed and nothing written: a gate does not pass by not running."""
    code, out, error = attempt(command, behaviour)
    assert (code, out) == (2, "")
    assert BEHAVIOURS[behaviour][1] in error
    assert "Traceback" not in error
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "new.json").exists()


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_whatever_a_file_does_when_it_is_loaded_is_a_sentence(attempt, behaviour):
    """It ends its process, by Python or hard, hangs, raises or leaves children behind."""
    code, out, error = attempt("check", behaviour)
    assert (code, out) == (2, "")
    assert error.startswith("error: ")
    assert BEHAVIOURS[behaviour][1] in error


def test_a_suite_with_a_file_that_hangs_ends_at_the_time_limit(attempt):
    """The time limit of a run is that of looking its files up, too."""
    code, _, error = attempt("run", "hangs")
    assert code == 2
    assert "looking up hangs.py:Mine: stopped after 1 s; give a larger --timeout" in error


def test_what_a_file_prints_goes_to_standard_error_without_end(run_main, tmp_path, monkeypatch):
    """A hundred megabytes are cut to their tail, and standard output stays the command's."""
    monkeypatch.chdir(tmp_path)
    lines = "for i in range(1000):\n    print('x' * 100_000)\nprint('the last line')\nraise ValueError('mine')\n"
    (tmp_path / "prints.py").write_text(lines)
    code, out, error = run_main("check", "prints.py:Mine")
    assert (code, out) == (2, "")
    assert "the last line\n" in error
    assert len(error) < 100_000


class Offered:
    """An entry point of another package, which ends the process that loads it."""

    def __init__(self, name):
        self.name, self.value = name, "theirs:Thing"

    def load(self):
        raise SystemExit(0)


def test_what_another_package_offers_is_asked_elsewhere(run_main, monkeypatch):
    """What cannot be loaded is a row that says so, and exit code 1; the other rows are there."""
    monkeypatch.setattr(odegrad.catalogue, "entry_points", lambda group: [Offered("theirs")])
    asked = []

    def elsewhere(function, *arguments, what, timeout):
        asked.append(arguments)
        return guarded(function, *arguments, what=what, timeout=timeout)

    monkeypatch.setattr("odegrad.commands.details.guarded", elsewhere)
    code, out, error = run_main("list", "methods", "--details")
    assert code == 1
    assert asked == [("methods", "theirs")]
    assert "naive" in out
    assert f"theirs: {UNLOADABLE}" in error
