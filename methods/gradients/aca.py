"""ACA: keep every accepted state, redo one step at a time with a graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from odegrad.contracts import Bytes, Calls, Sizes, StepCounts, Traits
from odegrad.methods.backward.costs import graph_of_steps, kept_vectors, pullback_peak, replayed_once
from odegrad.methods.backward.per_sample.cost import bytes_of_replay, kept_starts, replayed_calls
from odegrad.methods.backward.per_sample.replay import StepReplayNode
from odegrad.methods.backward.replay import BlockReplayNode
from odegrad.methods.backward.tappable import TappableRowsMethod
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import SampleTimes
from odegrad.methods.solvers.solver import OneStepSolver


@dataclass(frozen=True)
class Aca(TappableRowsMethod):
    """Store the accepted states and steps; pull back through one step's graph at a time (Zhuang et al. 2020).

    It is the block replay with blocks of one step: naive's gradient, one step's graph in memory.
    """

    traits: ClassVar[Traits] = Traits(
        name="aca",
        summary="keeps every accepted state, replays one step at a time",
        paper="Zhuang et al., Adaptive Checkpoint Adjoint Method for Gradient Estimation in Neural ODE, ICML 2020",
        exact=True,
        keeps="the first state of every step",
        memory="N d + A s",
        cost_forward="s(N+R)+2 F",
        cost_backward="sN F + sN B",
        backward_phase="recompute",
        state_from="replay",
        taps="step ends",
    )

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost."""
        if steps.rounds is not None:
            return replayed_calls(steps, steps.rounds)
        return replayed_once(steps)

    def predicted_bytes(self, steps: StepCounts, sizes: Sizes) -> Bytes:
        """Return the bytes that these steps cost."""
        if steps.rounds is not None:
            return bytes_of_replay(steps, sizes, kept_starts(steps.rounds))
        saved = (kept_vectors(steps, steps.accepted) + sizes.outputs) * sizes.state_bytes
        return Bytes(saved, saved + graph_of_steps(steps, sizes, 1) + pullback_peak(steps, sizes))

    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that replays step by step."""
        return BlockReplayNode(field, solver, times, self.tap, 1).apply(y0)

    def solve_rows(self, field: RowField, solver: OneStepSolver, y0: Tensor, times: SampleTimes) -> Tensor:
        """Return the states ``[K, batch, n]`` with one node that replays rank by rank."""
        return StepReplayNode(field, solver, times).apply(y0)
