"""Revolve: keep C states, recompute between them, pull back one step at a time."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Bytes, Calls, RowCounts, Sizes, StepCounts, Tap, Traits
from odegrad.errors import UsageError
from odegrad.methods.backward.checkpointing import (
    Advance,
    Drop,
    OnlineCheckpoints,
    advanced,
    offline_checkpoints,
    online_checkpoints,
    reversal,
)
from odegrad.methods.backward.costs import (
    forward_calls,
    graph_of_steps,
    implicit_among,
    kept_vectors,
    last_stages,
    pullback_peak,
    redone_calls,
    replay_calls,
    solved_calls,
    stage_calls,
    stage_products,
    with_systems,
)
from odegrad.methods.backward.per_sample.checkpoints import CheckpointedRowsNode
from odegrad.methods.backward.per_sample.cost import bytes_of_replay, ranks, replayed_calls, widths
from odegrad.methods.backward.replay import ReplayPullback
from odegrad.methods.backward.stepwise import StepwiseNode, WalkBack
from odegrad.methods.backward.tappable import TappableRowsMethod
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.ends.landing import OpenTimes
from odegrad.methods.solvers.loop import replay
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import SampleTimes
from odegrad.methods.solvers.solver import OneStepSolver


@dataclass(frozen=True)
class Revolve(TappableRowsMethod):
    """Keep at most C states and redo steps from them, with the least repetition (Griewank and Walther 2000).

    Where the steps are fixed, the states to keep are known beforehand; where they are adaptive, the set moves along as
    the number of steps grows (Wang, Moin and Iaccarino 2009). Each step is then redone with a graph by itself, so the
    gradient is naive's and one step's graph is all there is at a time.

    Parameters
    ----------
    checkpoints
        The number C of states that are kept at a time, beside the one that is being worked on.

    Raises
    ------
    UsageError
        If ``checkpoints`` is not a positive whole number.
    """

    checkpoints: int = 8

    traits: ClassVar[Traits] = Traits(
        name="revolve",
        summary="keeps a given number of states, replays between them by binomial checkpointing, one step at a time",
        paper="Griewank and Walther, Algorithm 799: Revolve, ACM TOMS 2000; online: Wang, Moin and Iaccarino, 2009",
        exact=True,
        keeps="C states, at binomial places, known or not known how many steps come",
        memory="C d + A s",
        cost_forward="s(N+R)+2 F",
        cost_backward="s (t(N,C)+1) F + sN B, t(N,C) = r N - binom(C+r, r-1) with binom(C+r, r) >= N",
        backward_phase="recompute",
        state_from="replay",
        taps="step ends",
    )

    def __post_init__(self) -> None:
        """Check the option."""
        if not isinstance(self.checkpoints, int) or self.checkpoints < 1:
            raise UsageError(
                f"checkpoints: expected a positive whole number, got {self.checkpoints!r}; 4 to 32 are usual"
            )

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost."""
        if steps.rounds is not None:
            return self._calls_of_ranks(steps, steps.rounds)
        n, chosen = steps.accepted, online_checkpoints if steps.adaptive else offline_checkpoints
        actions = reversal(n, chosen(n, self.checkpoints), self.checkpoints)
        again = advanced(actions)
        # An implicit step costs its own Newton iterations and its Jacobian: which steps are taken again counts.
        newton = solved_calls(steps, again)
        read = last_stages(steps)
        backward = redone_calls(steps, again) + replay_calls(steps) + stage_calls(steps) + steps.carried + read
        predicted = Calls(forward_calls(steps), backward, stage_products(steps) + steps.carried + read)
        redone = steps.implicit_accepted + implicit_among(steps, again)
        return with_systems(predicted, steps, redone, newton + steps.work.newton)

    def _calls_of_ranks(self, steps: StepCounts, rounds: RowCounts) -> Calls:
        """Return the calls where a step is a rank of all samples."""
        which = ranks(rounds)
        n = len(which)
        again = advanced(reversal(n, online_checkpoints(n, self.checkpoints), self.checkpoints))
        return replayed_calls(steps, rounds, again=[which[j] for j in again])

    def predicted_bytes(self, steps: StepCounts, sizes: Sizes) -> Bytes:
        """Return the bytes that these steps cost."""
        if steps.rounds is not None:
            n = max(steps.rounds.steps)
            kept_ranks = {*online_checkpoints(n, self.checkpoints), n - 1} - {0}
            return bytes_of_replay(steps, sizes, widths(steps.rounds, kept_ranks))
        n, chosen = steps.accepted, online_checkpoints if steps.adaptive else offline_checkpoints
        kept = {*chosen(n, self.checkpoints), n - 1} - {0}
        saved = (kept_vectors(steps, len(kept) + 1) + sizes.outputs) * sizes.state_bytes
        return Bytes(saved, saved + graph_of_steps(steps, sizes, 1) + pullback_peak(steps, sizes))

    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that walks the checkpoints back."""
        return _CheckpointedNode(field, solver, times, self.tap, self.checkpoints).apply(y0)

    def solve_rows(self, field: RowField, solver: OneStepSolver, y0: Tensor, times: SampleTimes) -> Tensor:
        """Return the states ``[K, batch, n]`` with one node that walks checkpoints of ranks back."""
        return CheckpointedRowsNode(field, solver, times, self.checkpoints).apply(y0)


class _CheckpointedNode(StepwiseNode):
    """Keeps the carried vectors ``kept`` at the checkpoints and, last, the one before the last step."""

    def __init__(
        self, field: FlatField, solver: OneStepSolver, times: Sequence[float], tap: Tap | None, slots: int
    ) -> None:
        super().__init__(field, solver, times, tap)
        self.slots = slots
        self.checkpoints: list[int] = []

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep at most C states, whichever the rule wants."""
        known = not (self.solver.adaptive or isinstance(self.times, OpenTimes))
        planned = set(offline_checkpoints(self._fixed_steps(), self.slots)) if known else None
        online = OnlineCheckpoints(self.slots)
        ys, states, x = [y0[None]], {}, y0
        # The number of fixed steps is known, and with it the binomial pattern; of adaptive ones any may be the last, so
        # the set must be right after each.
        for n, step in enumerate(self.steps(y0)):
            x = step.x
            if planned is None or n in planned:
                states[n] = x
            forgotten = online.reached(n) if planned is None and n > 0 else None
            if forgotten is not None:
                del states[forgotten]
            ys += step.ys
        self.checkpoints = sorted(states) if planned is not None else sorted(states)[:-1] or [0]
        return torch.cat(ys), (*(states[n] for n in self.checkpoints), x)

    def _fixed_steps(self) -> int:
        times = [self.times[0], self.times[-1]] if self.solver.reads_inside_steps else self.times
        return sum(self.solver.steps_between(a, b) for a, b in itertools.pairwise(times))

    def walk_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> WalkBack:
        """Follow the reversal: advance without a graph, pull back one step at a time."""
        n = len(self.grid)
        states = dict(zip(self.checkpoints, kept[:-1], strict=True))
        back = ReplayPullback(self, grads)
        a = torch.zeros_like(kept[-1])
        for action in reversal(n, self.checkpoints, self.slots):
            if isinstance(action, Drop):
                del states[action.state]
                continue
            stop = action.stop if isinstance(action, Advance) else action.step
            # The state before the last step is none of the checkpoints: the solve has handed it over.
            x = kept[-1] if action.start == n - 1 else states[action.start]
            x = replay(self.field, self.solver, x, self.grid[action.start : stop], grads.shape[1])
            if isinstance(action, Advance):
                states[stop] = x
            else:
                a = yield from back.through(x, stop, stop + 1, a)
        return back.to_start(kept[0], a), back.total
