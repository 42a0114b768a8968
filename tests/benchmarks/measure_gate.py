"""Measure how often the gates are wrong: ``python tests/benchmarks/measure_gate.py exact|times [options]``.

``exact`` makes a baseline of two small runs and gates the same code against it again and again, beside ``--load`` busy
processes: every exit code that is not 0 is a false alarm. ``times`` gates an interpreter's odegrad against itself, as
it is and with a method whose backward pass takes a tenth longer, and prints what was decided. Each gate is printed as
it ends, so that a measurement that is cut short leaves its figures.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from odegrad.gate.command import GateOptions, run_gate

SUITE = """
name = "measured"
methods = {methods}
passes = {passes}

[[solvers]]
name = "dopri5"
rtol = 1e-4
atol = 1e-4

[[tasks]]
name = "linear"
size = "tiny"
"""
EXACT = SUITE.format(methods='["adjoint", "interpolation"]', passes='["count", "memory"]')
TIMES = SUITE.format(methods='[{ gradient = "slowed.py:Slowed", name = "slowed" }]', passes='["time"]')

SLOWED = '''
"""The adjoint method; between two f calls of the backward pass it spends SLOW_DOWN of the time that passed."""

import os
import time
from dataclasses import dataclass

from torch import nn

from odegrad.methods.gradients.adjoint import Adjoint

SLOW_DOWN = float(os.environ["ODEGRAD_SLOW_DOWN"])


class Slow(nn.Module):
    def __init__(self, field):
        super().__init__()
        self.field = field
        self.last = None

    def begin(self, gradient):
        self.last = time.process_time()

    def forward(self, t, y):
        if self.last is not None:
            now = time.process_time()
            until = now + SLOW_DOWN * (now - self.last)
            while now < until:
                now = time.process_time()
            self.last = now
        return self.field(t, y)


@dataclass(frozen=True)
class Slowed(Adjoint):
    def __call__(self, field, solver, y0, ts):
        slow = Slow(field)
        ys = super().__call__(slow, solver, y0, ts)
        ys.register_hook(slow.begin)
        return ys
'''


@contextlib.contextmanager
def busy(number):
    """Keep ``number`` processes busy meanwhile."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def exact(folder, gates, load):
    """Gate the same code ``gates`` times beside ``load`` busy processes; each pass in a process of its own as ever."""
    (folder / "exact.toml").write_text(EXACT)
    quiet = Console(stderr=True, quiet=True)
    options = GateOptions(str(folder / "exact.toml"), folder / "gate.json")
    with busy(load):
        run_gate(replace(options, update=True, reason="to be measured"), quiet)
        codes = Counter()
        for number in range(1, gates + 1):
            begin = time.monotonic()
            verdict = run_gate(options, quiet)
            codes[verdict.code] += 1
            said = "" if not verdict.code else f" {verdict.findings}"
            seconds = time.monotonic() - begin
            print(f"{number} gates, exit codes {dict(codes)}, this one {seconds:.1f} s{said}", flush=True)


def time_gate(folder, base, budget, slow_down):
    """Run one time gate of an interpreter against itself; return its exit code, what it says and its seconds."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "odegrad.cli", "gate", "times.toml", "--base-python", base, "--budget", budget]
    done = subprocess.run(
        [*map(str, command), "--json"],
        cwd=folder, env={**os.environ, "ODEGRAD_SLOW_DOWN": str(slow_down)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    seconds = time.monotonic() - begin
    try:
        found = json.loads(done.stdout)
    except json.JSONDecodeError:
        return done.returncode, done.stderr[-500:], seconds
    return done.returncode, "; ".join([*(each["why"] for each in found["findings"]), *found["sentences"]]), seconds


def times(folder, tries, load, slow_down, budget):
    """Gate the same code against itself, and with a slower backward pass, ``tries`` times each in turn."""
    (folder / "times.toml").write_text(TIMES)
    (folder / "slowed.py").write_text(SLOWED)
    base = folder / "base-python"
    base.write_text(f'#!/bin/sh\nODEGRAD_SLOW_DOWN=0 exec {sys.executable} "$@"\n')
    base.chmod(0o755)
    codes = {0.0: Counter(), slow_down: Counter()}
    with busy(load):
        for _ in range(tries):
            for injected, counter in codes.items():
                code, why, seconds = time_gate(folder, base, budget, injected)
                words = (word for word in ("slower", "undecided", "fine") if f"{word}: " in why)
                counter[next(words, f"exit code {code}")] += 1
                print(f"injected {injected:.0%}: {dict(counter)}; this one {seconds:.0f} s: {why}", flush=True)


def main():
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["exact", "times"])
    parser.add_argument("--gates", type=int, default=200, help="exact gates (200)")
    parser.add_argument("--tries", type=int, default=1, help="time gates of each kind (1)")
    parser.add_argument("--load", type=int, default=0, help="busy processes beside the gates (0)")
    parser.add_argument("--slow-down", type=float, default=0.1, help="of the backward pass (0.1)")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds of a time gate (300)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if given.kind == "exact":
            exact(Path(name), given.gates, given.load)
        else:
            times(Path(name), given.tries, given.load, given.slow_down, given.budget)


if __name__ == "__main__":
    main()
