"""Time what the checks of a field cost: ``python tests/benchmarks/time_checks.py [rounds] [problem ...]``.

Both ways run in one process, round by round: as it is, and with every check put out of action. A round is their
time on the thread's own clock, which other jobs on the machine do not move; printed are the median of the rounds'
ratios and the interval that holds the true median with 95 % (order statistics), for every problem and gradient method.
"""

import contextlib
import math
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch

from odegrad.methods.backward import entry, node, replay
from odegrad.methods.solvers import dynamics
from odegrad.registry import build_gradient
from odegrad.user.files import load_from_file

build = load_from_file(f"{Path(__file__).with_name('problems.py')}:build", "problem")

METHODS = ("naive", "aca", "adjoint")
LIMITS = {"P1": 0.02, "P4": 0.05}
"""What the checks may cost."""


class _Nothing:
    """Holds nothing, and hears of no change."""

    def __init__(self, *_args):
        self.tensors, self.sources, self.written = {}, [], []

    def as_it_was(self, *_args):
        """Leave the field as it is."""
        return nullcontext()

    def settle(self, *_args):
        """Take no note."""

    @classmethod
    def now(cls, *_args):
        """Look at no generator."""
        return cls()

    def has_moved(self):
        """See no draw."""
        return False


class _Bare(torch.autograd.Function):
    """A node that keeps the start and what its method keeps."""

    @staticmethod
    def forward(ctx, solve_node, y0, *inputs):
        ys, kept = solve_node.forward(y0.detach())
        ctx.node, ctx.inputs = solve_node, inputs
        ctx.save_for_backward(y0, *kept)
        return ys

    @staticmethod
    def backward(ctx, grad):
        y0, *kept = ctx.saved_tensors
        with torch.no_grad(), ctx.node.field.undisturbed():
            a0, found = ctx.node.pull_back(grad, tuple(kept))
        pulled = [torch.zeros_like(p) if g is None else g for p, g in zip(ctx.inputs, found, strict=True)]
        return None, *node.without_derivative([a0, *pulled], (grad, y0, *ctx.inputs), "this gradient method")


def _bare_pull(_field, outputs, inputs, grads, *, keep=False):
    return torch.autograd.grad(outputs, inputs, grads, retain_graph=keep, allow_unused=True)


def _bare_pull_replay(_field, outputs, inputs, grads, _replay):
    return torch.autograd.grad(outputs, inputs, grads, allow_unused=True)


def _bare_pull_last(_field, dy, inputs, a):
    return torch.autograd.grad([dy], inputs, [a], allow_unused=True)


def _bare_evaluate(self, t, y, _held):
    return self.field(t, y)


def _bare_search(self, _y0):
    self.field.refuse_closures_at_first_call(self.parameters)


@contextlib.contextmanager
def without_checks():
    """Put every check out of action inside, but the look for closures at the first call."""
    with contextlib.ExitStack() as stack:
        for place, name, instead in (
            (entry, "Draws", _Nothing),
            (entry, "inside_derivative", lambda: False),
            (entry, "autocast_off", lambda _device: nullcontext()),
            (dynamics, "Held", _Nothing),
            (dynamics.FlatField, "_evaluate", _bare_evaluate),
            (node.SolveNode, "_find_trained", _bare_search),
            (node, "_Solve", _Bare),
            (replay, "_refuse_another_end", lambda _x, _end: None),
            (dynamics.FlatField, "pulled_through", _bare_pull),
            (dynamics.FlatField, "pulled_through_replay", _bare_pull_replay),
            (dynamics.FlatField, "pulled_through_last", _bare_pull_last),
        ):
            stack.enter_context(mock.patch.object(place, name, instead))
        yield


def _seconds(problem, way):
    begin = time.thread_time()
    problem.gradient(*way)
    return time.thread_time() - begin


def measure(name, gradient, rounds):
    """Return the ratios of the rounds, with the checks over without them, less one; and the seconds without."""
    problem = build(name)
    way = (build_gradient(gradient), problem.solver())
    ratios, bare = [], []
    for i in range(rounds + 2):
        found = {}
        # Whoever is first in one round is second in the next.
        for checked in (True, False) if i % 2 else (False, True):
            with nullcontext() if checked else without_checks():
                found[checked] = _seconds(problem, way)
        if i >= 2:
            ratios.append(found[True] / found[False] - 1)
            bare.append(found[False])
    return sorted(ratios), statistics.median(bare)


def interval(ordered):
    """Return the ends of an interval that holds the median with at least 95 % (normal approximation)."""
    n = len(ordered)
    reach = 0.98 * math.sqrt(n)
    return ordered[max(0, math.floor(n / 2 - reach))], ordered[min(n - 1, math.ceil(n / 2 + reach))]


def main(rounds="200", *names):
    """Print the costs."""
    torch.set_num_threads(1)
    for name in names or LIMITS:
        for gradient in METHODS:
            ratios, bare = measure(name, gradient, int(rounds))
            low, high = interval(ratios)
            limit = f", limit {LIMITS[name]:.0%}" if name in LIMITS else ""
            cost = statistics.median(ratios)
            print(f"{name} {gradient}: {cost:.1%} [{low:.1%}, {high:.1%}] of {1e3 * bare:.2f} ms{limit}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
