"""A user's repository under CI: a slow-down and a leak are committed; the gate stops both, and the history marks them.

``pytest -s -m minutes tests/bench/history/test_shows.py`` prints what CI would show.
"""

import json
import os
import re
import subprocess
import sys

import pytest

SUITE = """
name = "mine"
methods = [{ gradient = "my_method.py:Mine", name = "mine" }]
passes = ["time", "count", "memory"]

[[solvers]]
name = "dopri5"
rtol = 1e-3
atol = 1e-3

[[tasks]]
name = "linear"
size = "tiny"
"""

METHOD = '''"""Our gradient method."""

from dataclasses import dataclass

import torch

from odegrad.methods.gradients.naive import Naive


class Finish(torch.autograd.Function):
    """Hands the solution on, and its gradient back."""

    @staticmethod
    def forward(ctx, ys):
        {keep}
        return ys.view_as(ys)

    @staticmethod
    def backward(ctx, grad):
        {work}
        return grad


@dataclass(frozen=True)
class Mine(Naive):
    def __call__(self, field, solver, y0, ts):
        return Finish.apply(super().__call__(field, solver, y0, ts))
'''

SOUND = {"keep": "pass", "work": "pass"}
SLOW = SOUND | {"work": "for _ in range(400): torch.ones(64, 64) @ torch.ones(64, 64)  # nobody needs this"}
LEAK = SLOW | {"keep": "ctx.save_for_backward(ys.clone())  # nobody reads this"}


def odegrad(*arguments, cwd):
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "odegrad.cli", *map(str, arguments)],
        cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.minutes
@pytest.mark.timeout(1800)
def test_slow_down_and_leak_fail_the_gate_and_are_marked_in_the_history(checkout, tmp_path, capsys):
    """Four commits: the gate passes two and names what the others cost; the history finds the same two commits.

    Times are never fine: slower, or undecided where the machine cannot time anything.
    """
    folder, gate = checkout.folder, ("gate", "mine.toml", "--baseline", "gate.json")
    (folder / "mine.toml").write_text(SUITE, encoding="utf-8")
    (folder / "my_method.py").write_text(METHOD.format(**SOUND), encoding="utf-8")
    first = odegrad(*gate, "--update", "--reason", "first baseline", cwd=folder)
    assert first.returncode == 0, first.stderr
    changes = {
        "our method": {},
        "say how to run it": {"README__md": "odegrad run mine.toml\n"},
        "tidy the backward pass": {"my_method__py": METHOD.format(**SLOW)},
        "keep the solution": {"my_method__py": METHOD.format(**LEAK)},
    }
    commits, verdicts = {}, {}
    for message, files in changes.items():
        commits[message] = checkout.commit(message, **files)
        verdicts[message] = odegrad(*gate, "--github", cwd=folder)
        results = tmp_path / commits[message]
        for command in (
            ("run", "mine.toml", "--device", "cpu", "--results", results),
            ("history", "add", results, "--branch", "odegrad-history"),
        ):
            done = odegrad(*command, cwd=folder)
            assert done.returncode == 0, done.stderr
        _say(
            capsys,
            f"{commits[message][:12]} {message}: gate exits with {verdicts[message].returncode}",
            verdicts[message],
        )
    _, same, slow, leak = verdicts
    assert [verdicts[message].returncode for message in verdicts] == [0, 0, 1, 1]
    assert "regressed: operators_backward" in _sentences(verdicts[slow])
    assert "regressed: saved_bytes" in _sentences(verdicts[leak])
    assert "saved_bytes" not in _sentences(verdicts[slow])

    checkout("checkout", "-q", commits[slow])
    timed = odegrad("gate", "mine.toml", "--base", commits[same], cwd=folder)
    _say(capsys, f"{commits[slow][:12]} {slow}: times, gate exits with {timed.returncode}", timed)
    slower = "gate: slower than the base" in timed.stdout
    undecided = (
        "gate: undecided, which does not fail (2 undecided)" in timed.stdout
    )  # of a machine that is too busy to time anything
    assert (timed.returncode, slower, undecided) in {(1, True, False), (0, False, True)}, timed.stdout + timed.stderr
    checkout("checkout", "-q", "main")

    out = tmp_path / "trend"
    done = odegrad("history", "report", "--branch", "odegrad-history", "--json", "--out", out, cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    _say(capsys, "history", "\n".join(found["said"]))
    assert [mark["sha"] for mark in found["commits"]] == list(commits.values())
    steps = {(step["good"], step["bad"], step["metric"]): step["verdict"] for step in found["steps"]}
    assert steps[commits[same], commits[slow], "operators_backward"] == "regressed"
    assert steps[commits[slow], commits[leak], "saved_bytes"] == "regressed"
    assert {bad for _, bad, _ in steps} == {commits[slow], commits[leak]}
    headings = re.findall(r"<h3>(\w+) <span", (out / "history.html").read_text(encoding="utf-8"))
    assert headings == [commits[leak][:12], commits[slow][:12]]


def _sentences(done):
    """Return what a gate found, from its annotations' words in the table."""
    return " ".join(re.sub(r"[│|]", " ", done.stdout).split())


def _say(capsys, title, what):
    with capsys.disabled():
        print(f"\n--- {title}\n{what if isinstance(what, str) else what.stdout}")
