"""The base beside the head, with real git, pip and processes: who runs which code; how fast decides nothing."""

import importlib.metadata
import itertools
import math
import shutil
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from odegrad.errors import BaselineError, InfrastructureError, UsageError
from odegrad.gate.base import BUILDS, built_base
from odegrad.gate.baseline import run_name
from odegrad.gate.decision import MIN_PAIRS
from odegrad.gate.paired import TIMED_PARTS, measure_pairs, time_verdict
from odegrad.gate.side import Environment, Side
from odegrad.gate.verdict import GateState
from odegrad.records.record import Run

METHOD = """
from dataclasses import dataclass

from odegrad.methods.gradients.naive import Naive


@dataclass(frozen=True)
class Mine(Naive):
    def __call__(self, field, solver, y0, ts):
        print("a word on standard output")
        {body}
        return super().__call__(field, solver, y0, ts)
"""

BACKEND = """
import zipfile


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name, info = "thing-1.0-py3-none-any.whl", "thing-1.0.dist-info"
    with zipfile.ZipFile(f"{wheel_directory}/{name}", "w") as wheel:
        wheel.write("thing.py")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: thing\\nVersion: 1.0\\n")
        tags = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""

CLOCK = """
import itertools
import time

time.process_time = itertools.count(0, {tick}).__next__
"""

PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def git(*arguments, cwd):
    """Run git with an author of its own; return what it printed."""
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = [shutil.which("git"), *author, *arguments]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder, **files):
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(textwrap.dedent(text), encoding="utf-8")
    git("add", "-A", cwd=folder)
    git("commit", "-q", "-m", "a change", cwd=folder)
    return git("rev-parse", "HEAD", cwd=folder)


@pytest.fixture
def repository(tmp_path):
    """Return an empty git repository."""
    git("init", "-q", str(tmp_path), cwd=tmp_path)
    return tmp_path


def test_builds_are_the_revisions_files_and_packages_and_leave_nothing(repository):
    """Each worktree holds the old file, its packages the old wheel; all are gone afterwards, and so are git's notes."""
    first = commit(repository, thing__py="VALUE = 1", backend__py=BACKEND, pyproject__toml=PROJECT)
    commit(repository, thing__py="VALUE = 2")
    code = "import thing; print(thing.VALUE, thing.__file__)"
    with built_base("HEAD~1", repository) as (builds, since):
        assert since == first[:12]
        for build in builds:
            assert (build.folder / "thing.py").read_text(encoding="utf-8") == "VALUE = 1"
            assert [each.version for each in importlib.metadata.distributions(name="thing", path=[str(build.path)])]
            done = subprocess.run(
                [sys.executable, "-P", "-c", code], env=build.variables(1), capture_output=True, text=True, check=True
            )
            assert done.stdout.strip() == f"1 {build.path / 'thing.py'}"
    assert len({len(str(build.folder)) for build in builds}) == len(builds) == 2
    assert not any(build.folder.exists() for build in builds)
    assert len(git("worktree", "list", cwd=repository).splitlines()) == 1


def test_base_that_does_not_build_says_what_pip_said(repository):
    """A backend that fails, and a revision that is not there: the worktree is removed all the same."""
    commit(repository, backend__py="def build_wheel(*_): raise RuntimeError('no wheel today')", pyproject__toml=PROJECT)
    with pytest.raises(BaselineError, match=r"(?s)--base HEAD: cannot be built.*"), built_base("HEAD", repository):
        pass
    with (
        pytest.raises(
            BaselineError, match=r"--base nowhere: expected a revision of the repository .*, got none of that name"
        ),
        built_base("nowhere", repository),
    ):
        pass
    assert len(git("worktree", "list", cwd=repository).splitlines()) == 1


def test_folder_that_the_base_lacks_is_named(repository):
    """A suite in a folder that is new."""
    commit(repository, a__txt="a")
    (repository / "new").mkdir()
    with (
        pytest.raises(BaselineError, match=r"expected the folder .*new in that revision, got none"),
        built_base("HEAD", repository / "new"),
    ):
        pass


@pytest.mark.slow
def test_one_pair_times_both_sides_and_names_what_one_cannot_run(tmp_path):
    """A sound method, one that is broken in the head, one that the base lacks: datum, regressed, new."""
    bodies = {
        "base": {"sound": "pass", "broken": "pass"},
        "head": {"sound": "pass", "broken": "1 / 0", "added": "pass"},
    }
    for side, methods in bodies.items():
        (tmp_path / side).mkdir()
        for name, body in methods.items():
            (tmp_path / side / f"{name}.py").write_text(METHOD.format(body=body), encoding="utf-8")
    runs = {
        name: Run("s", "linear", "tiny", f"{name}.py:Mine", "adam", "rk4", 0, 1e-3, 1e-3, 1, method=name,
                  solver_options=(("num_steps", 2),))
        for name in ("broken", "sound", "added")
    }  # fmt: skip
    base, head = (Environment(folder=tmp_path / side) for side in ("base", "head"))
    found = measure_pairs(list(runs.values()), (base, base), head, budget=0.0)
    assert found.builds == 1
    assert list(found.cells) == [(run_name(runs["sound"]), part) for part in TIMED_PARTS]
    assert {part: len(ratios) for part, ratios in found.control.items()} == dict.fromkeys(TIMED_PARTS, 1)
    assert math.isfinite(found.cells[run_name(runs["sound"]), TIMED_PARTS[0]][0])
    states = {name: found.failed[run_name(runs[name])] for name in ("broken", "added")}
    assert states["broken"].state is GateState.REGRESSED
    assert "ZeroDivisionError" in states["broken"].why
    assert states["added"].state is GateState.NEW


@pytest.mark.slow
def test_bias_of_one_build_is_noise_and_is_said(repository, tmp_path_factory):
    """The second build and the head read a clock that is 6 % faster: no slow-down, though 6 % over the first.

    The wheel brings the clock, which no machine disturbs: two pairs are measured, and stand for five of their kind.
    """
    slow = f'wheel.writestr("sitecustomize.py", {CLOCK!r}.format(tick=53 if "/{BUILDS[1]}/" in os.getcwd() else 50))'
    backend = BACKEND.replace('wheel.write("thing.py")', slow).replace("import zipfile", "import os\nimport zipfile")
    commit(repository, backend__py=backend, pyproject__toml=PROJECT)
    packages = tmp_path_factory.mktemp("head")
    (packages / "sitecustomize.py").write_text(CLOCK.format(tick=53), encoding="utf-8")
    run = Run("s", "linear", "tiny", "naive", "adam", "rk4", 0, 1e-3, 1e-3, 1, solver_options=(("num_steps", 2),))
    with built_base("HEAD", repository) as (builds, since):
        head = Environment(folder=repository, path=packages)
        found = measure_pairs([run], builds, head, 1.5, clock=itertools.count().__next__)
    ratio = math.log(53 / 50)
    for part in TIMED_PARTS:
        assert found.control[part] == pytest.approx([ratio, ratio])
        assert found.cells[run_name(run), part] == pytest.approx([ratio, 0.0])
        found.control[part] *= MIN_PAIRS // 2
        found.cells[run_name(run), part] *= MIN_PAIRS // 2
    verdict = time_verdict(found, since, "")
    assert [finding.state for finding in verdict.findings] == [GateState.UNDECIDED] * len(TIMED_PARTS)
    for part in TIMED_PARTS:
        assert f"two builds of this one base differ by +6.0% in the {part}, which is counted as noise" in verdict.notes


PROGRAM = """#!{python} -S
import json, os, sys, time

def asked():
    return json.loads(sys.stdin.readline())["key"]

def say(**message):
    os.write(1, json.dumps(message).encode() + b"\\n")

say(key=asked())
key = asked()
{body}
"""
ANSWERS = {
    "print('no torch here', file=sys.stderr); sys.exit(1)": (UsageError, "ended early: .* code 1 .*: no torch here"),
    "os.kill(os.getpid(), 9)": (InfrastructureError, "ended early: the process was killed from outside by SIGKILL"),
    "os.write(1, b'garbage\\n'); time.sleep(60)": (UsageError, "wrote what is no answer: b'garbage'"),
    "os.write(1, b'[' * 10**5 + b'\\n'); time.sleep(60)": (UsageError, r"wrote what is no answer: b'\[\["),
    "os.write(1, b'half a line'); sys.exit(0)": (UsageError, "ended early: .* exit code 0"),
    "say(seconds=[1.0, 1.0]); time.sleep(60)": (UsageError, "wrote what is no answer"),
    "time.sleep(60)": (UsageError, "said nothing for 0.5 s"),
    "say(seconds=[1.0], key=key)": (UsageError, r"expected two times above 0 s .*, got \[1.0\]"),
    "say(seconds=[0.0, float('nan')], key=key)": (UsageError, "expected two times above 0 s"),
    "say(key=key)": (UsageError, "expected two times above 0 s .*, got None"),
    "say(error='mine', key=key)": (InfrastructureError, "cell: mine"),
}


@pytest.fixture
def program(tmp_path):
    """Return a function that makes the environment of an interpreter that answers so."""

    def make(body):
        path = tmp_path / "python"
        path.write_text(PROGRAM.format(python=sys.executable, body=body), encoding="utf-8")
        path.chmod(0o700)
        return Environment(str(path), tmp_path)

    return make


@pytest.mark.parametrize("body", ANSWERS)
def test_whatever_a_timed_process_answers_is_times_or_a_sentence(program, monkeypatch, body):
    """It ends by itself, is killed, writes garbage, answers unasked, is silent, or tells no times."""
    monkeypatch.setattr("odegrad.gate.side.ANSWER_SECONDS", 0.5 if body == "time.sleep(60)" else 10.0)
    error, match = ANSWERS[body]
    with Side(program(body), threads=1) as side, pytest.raises(error, match=match):
        side.seconds("cell", 0.1)


def test_times_of_a_timed_process_are_told(program):
    """Two numbers above 0 s, with the question's key."""
    with Side(program("say(seconds=[0.5, 0.25], key=key)"), threads=1) as side:
        assert side.seconds("cell", 0.1) == [0.5, 0.25]


def test_interpreter_that_cannot_be_started_is_wrong_use(tmp_path):
    """A file that is no program."""
    (tmp_path / "python").write_text("")
    with pytest.raises(BaselineError, match=r"a timed process cannot be started with .*python: "):
        Side(Environment(str(tmp_path / "python"), tmp_path), threads=1)


DAEMON = """
import os, pathlib, time
from odegrad.methods.gradients.naive import Naive
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        pathlib.Path("daemon").write_text(str(os.getpid()))
        time.sleep(1000)
    os._exit(0)
class Mine(Naive): pass
"""


def ended(pid, end):
    """Return whether a process is gone by ``end``; one that is dead may wait for whoever collects it."""
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.skipif(sys.platform != "linux", reason="subreapers are Linux's")
def test_a_timed_process_leaves_nothing_behind(tmp_path, killed):
    """A daemon of the measured file ends with it, and where nobody is there any more to end it."""
    (tmp_path / "mine.py").write_text(DAEMON, encoding="utf-8")
    run = Run("s", "linear", "tiny", "mine.py:Mine", "adam", "rk4", 0, 1e-3, 1e-3, 1, method="mine",
              solver_options=(("num_steps", 2),))  # fmt: skip
    with Side(Environment(folder=tmp_path), threads=1) as side:
        assert side.ask({"cell": "c", "run": run.to_dict()}) == {"built": "c"}
        end = time.monotonic() + 30
        while not (tmp_path / "daemon").exists() or not (tmp_path / "daemon").read_text():
            assert time.monotonic() < end
            time.sleep(0.01)
        daemon = int((tmp_path / "daemon").read_text())
        assert psutil.pid_exists(daemon)
        if killed:
            side._process.stdin.close()  # as when this process were killed
            assert ended(daemon, end)
    assert ended(daemon, end)
