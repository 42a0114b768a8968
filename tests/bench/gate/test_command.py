"""``odegrad gate`` on a user's own method: baseline, verdicts, injected faults, exit codes."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from odegrad.gate.baseline import read_baseline, run_name
from odegrad.gate.measure import gated_runs
from odegrad.gate.metrics import METRICS
from odegrad.records.columns import Compared
from odegrad.suites.suite import load_suite

ROOT = Path(__file__).parents[3]

SUITE = """
name = "mine"
methods = [METHODS]
passes = ["count", "memory"]

[[solvers]]
name = "dopri5"
rtol = 1e-3
atol = 1e-3

[[tasks]]
name = "linear"
size = "tiny"
"""

IMPORTS = """
from dataclasses import dataclass, replace

import torch

from odegrad.methods.gradients.naive import Naive
"""

METHOD = """

@dataclass(frozen=True)
class {name}(Naive):
    def __call__(self, field, solver, y0, ts):
{body}
"""

SOUND = "        return super().__call__(field, solver, y0, ts)"

EXTRA_CALL = '''        class Observer:
            """Evaluates the field once more after every accepted step."""

            def __init__(self, inner):
                self.inner = inner

            def accepted(self, t, h):
                with torch.no_grad():
                    field(torch.tensor(t + h, dtype=y0.dtype), y0)
                if self.inner is not None:
                    self.inner.accepted(t, h)

            def rejected(self, t, h):
                if self.inner is not None:
                    self.inner.rejected(t, h)

        return super().__call__(field, solver.observed_by(Observer(solver.observer)), y0, ts)'''

SAVED_TENSOR = '''        class Keep(torch.autograd.Function):
            """Saves a copy of the solution that nobody needs."""

            @staticmethod
            def forward(ctx, ys):
                ctx.save_for_backward(ys.clone())
                return ys.view_as(ys)

            @staticmethod
            def backward(ctx, grad):
                return grad

        return Keep.apply(super().__call__(field, solver, y0, ts))'''

COEFFICIENT = """        a = solver.scheme.a
        row = (a[2][0] + 1e-6, a[2][1] - 1e-6)
        scheme = replace(solver.scheme, a=(a[0], a[1], row, *a[3:]))
        return super().__call__(field, replace(solver, scheme=scheme), y0, ts)"""

LEAKING_ERROR = '        raise ValueError("my own mistake")'


def gate(*arguments, cwd):
    """Run ``odegrad gate`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "odegrad.cli", "gate", *map(str, arguments)],
        cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


FAULTS = {
    "Same": (SOUND + "  # as before", None),
    "Calling": (EXTRA_CALL, "nfe_forward"),
    "Keeping": (SAVED_TENSOR, "saved_bytes"),
    "Inexact": (COEFFICIENT, "gradient_digest"),
    "Raising": (LEAKING_ERROR, "status"),
}
"""Methods, what becomes of each, and the metric that tells it; none where the behaviour is as before."""


def write_methods(folder, **bodies):
    """Write the methods, sound but for those that are given."""
    methods = [METHOD.format(name=name, body=bodies.get(name, SOUND)) for name in FAULTS]
    (folder / "my_method.py").write_text(IMPORTS + "".join(methods), encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a user's folder with a suite of sound methods and its baseline."""
    folder = tmp_path_factory.mktemp("project")
    methods = ", ".join(f'{{ gradient = "my_method.py:{name}", name = "{name}" }}' for name in FAULTS)
    (folder / "mine.toml").write_text(SUITE.replace("METHODS", methods), encoding="utf-8")
    write_methods(folder)
    done = gate("mine.toml", "--baseline", "gate.json", "--update", "--reason", "first", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def baseline(project, tmp_path):
    """Return a copy of the project's baseline."""
    (tmp_path / "gate.json").write_bytes((project / "gate.json").read_bytes())
    return tmp_path / "gate.json"


@pytest.mark.slow
def test_injected_faults_are_found_and_nothing_else(project, baseline, tmp_path):
    """Each fault fails the gate and is named; a changed method with the same behaviour does not."""
    write_methods(project, **{name: body for name, (body, _) in FAULTS.items()})
    files = ("--junit", tmp_path / "gate.xml", "--markdown", tmp_path / "gate.md", "--github")
    done = gate("mine.toml", "--baseline", baseline, *files, cwd=project)
    assert done.returncode == 1, done.stdout + done.stderr
    cases = ET.parse(tmp_path / "gate.xml").getroot().findall("testsuite/testcase")
    failed = {each.get("name"): each.find("failure").text for each in cases if each.find("failure") is not None}
    table = (tmp_path / "gate.md").read_text(encoding="utf-8").replace("\\", "")
    told = {name: metric for name, (_, metric) in FAULTS.items() if metric is not None}
    assert len(failed) == len(told)
    for name, metric in told.items():
        (text,) = (text for case, text in failed.items() if name in case)
        others = {other for other in told.values() if other != metric}
        assert metric in text
        assert metric == "status" or not any(other in text for other in others)
        assert f"{metric} " in table
        assert f"regressed: {metric}" in done.stdout or f"changed: {metric}" in done.stdout
    assert done.stdout.count("::error file=") >= len(told)
    assert "repeat: odegrad gate mine.toml" in done.stdout


@pytest.mark.slow
def test_update_accepts_and_keeps_the_reasons(project, baseline):
    """After a fault is accepted with a reason the gate is fine again, and has nothing to repeat."""
    write_methods(project, Keeping=SAVED_TENSOR)
    done = gate("mine.toml", "--baseline", baseline, "--update", "--reason", "keeps the solution", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "saved_bytes" in done.stdout
    assert [r.reason for r in read_baseline(baseline, "mine").reasons] == ["first", "keeps the solution"]
    again = gate("mine.toml", "--baseline", baseline, cwd=project)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "repeat: odegrad gate" not in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--baseline", "none.json"), "--baseline none.json: expected a file, got none; write it with"),
        (("--baseline", "no/folder.json"), "there is no folder no; make it"),
        (("--baseline", "none.json", "--update"), "--update: expected --reason TEXT beside it"),
        (("--baseline", "none.json", "--reason", "x"), "--reason: expected --update beside it"),
        (
            ("--baseline", "none.json", "--update", "--reason", "x", "--set", "seeds=[1]"),
            "--update, --set: expected the whole suite",
        ),
        (("--baseline", "none.json", "--junit", "no/gate.xml"), "--junit no/gate.xml: there is no folder no"),
    ],
)
def test_wrong_use_is_exit_2(run_main, tmp_path, monkeypatch, arguments, message):
    """Said before anything is measured, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    code, _, err = run_main("gate", "gate", *arguments)
    assert code == 2
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 0}, "expected a baseline of schema 1, got 0"),
        ({"suite": "quick"}, "expected a baseline of the suite 'gate', got one of 'quick'"),
        ({"runs": {"gone": {"status": "ok"}}}, "expected runs in common with the suite, got none of 1"),
    ],
)
def test_baseline_of_something_else_is_exit_2_before_anything_is_measured(run_main, tmp_path, change, message):
    """The committed baseline with one key changed."""
    data = json.loads((ROOT / "tests" / "gate_baseline.json").read_text(encoding="utf-8"))
    (tmp_path / "gate.json").write_text(json.dumps(data | change), encoding="utf-8")
    code, out, err = run_main("gate", "gate", "--baseline", str(tmp_path / "gate.json"))
    assert (code, out) == (2, "")
    assert message in err
    assert "1/80" not in err


def test_own_baseline_is_that_of_the_gate_suite():
    """The committed baseline holds every run of the suite, ok, exact, with every figure at frozen parameters."""
    baseline = read_baseline(ROOT / "tests" / "gate_baseline.json", "gate")
    assert set(baseline.runs) == {run_name(run) for run in gated_runs(load_suite("gate"), "cpu")}
    of_training, of_implicit_steps = ("trained", "metric"), ("newton", "jacobians", "factorisations", "linear_solves")
    of_own_steps, of_events = ("sample_evaluations", "rounds", "useful_fraction"), ("event_",)
    of_split_fields, of_switching, of_low_fields = ("nfe_stiff", "nfe_rest"), ("explicit_steps",), ("scale_",)
    elsewhere = (*of_training, *of_implicit_steps, *of_own_steps, *of_events, *of_split_fields, *of_switching)
    frozen = {name for name in METRICS if not name.startswith((*elsewhere, *of_low_fields))}
    for name, entry in baseline.runs.items():
        assert entry["status"] == "ok", name
        assert frozen <= set(entry), name
        assert "inexact" not in entry, name
    assert {name for name, metric in METRICS.items() if metric.compared is not Compared.BITS} == set(baseline.bands)
    assert json.loads(baseline.text())["machine"] == baseline.machine


def test_gate_suite_holds_every_method_of_the_shared_loop():
    """A new gradient method is missing here until it is gated."""
    from odegrad.checks.conformance import shared_loop_methods

    assert set(shared_loop_methods()) <= {run.gradient for run in gated_runs(load_suite("gate"), "cpu")}
