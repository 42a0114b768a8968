"""Time ``odeint`` at its defaults beside torchdiffeq: ``python tests/benchmarks/time_defaults.py [rounds] [P1 ...]``.

What somebody gets who replaces the import: on each problem every way computes one gradient per round, one after the
other in one process, on the thread's own clock, which other jobs on the machine do not move. Printed are the median of
each way's ratios to torchdiffeq's naive and adjoint method of the same rounds, with the interval that holds the true
median with 95 %; f calls each way; and the error of the gradient against float64 at a hundredth of the tolerance.
"""

import statistics
import sys
import time
from pathlib import Path

import torch
import torchdiffeq
from rich.console import Console
from rich.table import Table

import odegrad
from odegrad.user.files import load_from_file

build = load_from_file(f"{Path(__file__).with_name('problems.py')}:build", "problem")
interval = load_from_file(f"{Path(__file__).with_name('time_checks.py')}:interval", "interval")

OURS = ("naive", "anode", "aca", "adjoint", "interpolation", "gauss_adjoint")
THEIRS = {"torchdiffeq naive": torchdiffeq.odeint, "torchdiffeq adjoint": torchdiffeq.odeint_adjoint}


class _Called(torch.nn.Module):
    """The field with a count of its calls."""

    def __init__(self, field):
        super().__init__()
        self.field, self.calls = field, 0

    def forward(self, t, y):
        """Return what the field does."""
        self.calls += 1
        return self.field(t, y)


def ways(problem):
    """Return name -> a function of a field that returns the solution."""
    told = {"rtol": problem.rtol, "atol": problem.atol}

    def ours(method):
        return lambda field: odegrad.odeint(field, problem.y0, problem.ts, gradient=method, **told)

    def theirs(odeint):
        return lambda field: odeint(field, problem.y0, problem.ts, **told)

    return {name: theirs(odeint) for name, odeint in THEIRS.items()} | {name: ours(name) for name in OURS}


def pulled_back(problem, way, field):
    """Return the gradient ``[p]`` and the calls each way."""
    called = _Called(field)
    value = problem.loss(way(called))
    forward, called.calls = called.calls, 0
    found = torch.autograd.grad(value, list(field.parameters()))
    return torch.cat([g.reshape(-1) for g in found]), (forward, called.calls)


def seconds(problem, way):
    """Return the seconds of one gradient."""
    begin = time.thread_time()
    value = problem.loss(way(problem.field))
    torch.autograd.grad(value, list(problem.field.parameters()))
    return time.thread_time() - begin


def measure(name, rounds):
    """Return for every way: seconds by round, calls each way, error of the gradient."""
    problem = build(name)
    true = problem.reference()
    chosen = ways(problem)
    told = {}
    for way, solve in chosen.items():
        gradient, calls = pulled_back(problem, solve, problem.field)
        error = float((gradient.double() - true).norm() / true.norm())
        told[way] = (calls, error)
    taken = {way: [] for way in chosen}
    for i in range(rounds + 1):
        # Whoever is first in one round is last in the next.
        for way in list(chosen)[:: 1 if i % 2 else -1]:
            spent = seconds(problem, chosen[way])
            if i:
                taken[way].append(spent)
    return taken, told


def main(rounds="20", *names):
    """Print a table for each problem."""
    torch.set_num_threads(1)
    console = Console(width=130)
    for name in names or ("P1", "P2", "P3", "P4"):
        taken, told = measure(name, int(rounds))
        table = Table(title=f"{name}, odeint at its defaults, {rounds} rounds")
        for heading in ("gradient", "ms", "of torchdiffeq naive", "of torchdiffeq adjoint", "f calls", "error"):
            table.add_column(heading, justify="left" if heading == "gradient" else "right")
        for way, spent in taken.items():
            ratios = []
            for peer in THEIRS:
                found = sorted(a / b for a, b in zip(spent, taken[peer], strict=True))
                low, high = interval(found)
                ratios.append(f"{statistics.median(found):.2f} [{low:.2f}, {high:.2f}]")
            (forward, backward), error = told[way]
            calls = f"{forward} / {backward}"
            table.add_row(way, f"{statistics.median(spent) * 1e3:.1f}", *ratios, calls, f"{error:.1e}")
        console.print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
