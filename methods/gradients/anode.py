"""ANODE: keep the state at the start of each block, redo the block with a graph."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from odegrad.contracts import Bytes, Calls, Sizes, StepCounts, Traits
from odegrad.errors import UsageError
from odegrad.methods.backward.costs import block_count, graph_of_steps, kept_vectors, pullback_peak, replayed_once
from odegrad.methods.backward.per_sample.cost import (
    block_starts,
    blocks_between,
    bytes_of_replay,
    largest_block,
    replayed_calls,
)
from odegrad.methods.backward.per_sample.replay import BlockReplayRowsNode
from odegrad.methods.backward.replay import BlockReplayNode
from odegrad.methods.backward.tappable import TappableRowsMethod
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import SampleTimes
from odegrad.methods.solvers.solver import OneStepSolver


@dataclass(frozen=True)
class Anode(TappableRowsMethod):
    """Store each block's first state and its accepted steps; redo the block with a graph (Gholami et al. 2019).

    A block is the interval between two outputs, or at most ``steps_per_block`` accepted steps of it; where outputs are
    read inside of steps, it ends with the step that reaches one. The replay takes the recorded steps, so the gradient
    is naive's; one engine call per block.

    Parameters
    ----------
    steps_per_block
        Most accepted steps of a block; None for one block per output interval, as published.

    Raises
    ------
    UsageError
        If ``steps_per_block`` is not a positive whole number.
    """

    steps_per_block: int | None = None

    traits: ClassVar[Traits] = Traits(
        name="anode",
        summary="keeps each block's start, replays the block with a graph",
        paper="Gholami et al., ANODE: Unconditionally Accurate Memory-Efficient Gradients for Neural ODEs, IJCAI 2019",
        exact=True,
        keeps="the first state and the recorded steps of each block",
        memory="M d + A s N of one block",
        cost_forward="s(N+R)+2 F",
        cost_backward="sN F + sN B",
        backward_phase="recompute",
        state_from="replay",
        taps="step ends",
    )

    def __post_init__(self) -> None:
        """Check the option."""
        n = self.steps_per_block
        if n is not None and (not isinstance(n, int) or n < 1):
            raise UsageError(f"steps_per_block: expected a positive whole number or None, got {n!r}")

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost."""
        if steps.rounds is not None:
            return replayed_calls(steps, steps.rounds, blocks=blocks_between(steps.rounds, self.steps_per_block))
        return replayed_once(steps)

    def predicted_bytes(self, steps: StepCounts, sizes: Sizes) -> Bytes:
        """Return the bytes that these steps cost."""
        if steps.rounds is not None:
            graph = largest_block(steps, sizes, steps.rounds, self.steps_per_block)
            return bytes_of_replay(steps, sizes, block_starts(steps.rounds, self.steps_per_block), graph)
        n, blocks = steps.accepted, steps.intervals
        if self.steps_per_block is not None:
            blocks = max(blocks, math.ceil(n / self.steps_per_block))
        if steps.reached:
            blocks = block_count(steps, self.steps_per_block)
        saved = (kept_vectors(steps, blocks) + sizes.outputs) * sizes.state_bytes
        graph = graph_of_steps(steps, sizes, math.ceil(n / blocks))
        return Bytes(saved, saved + graph + pullback_peak(steps, sizes))

    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that replays block by block."""
        return BlockReplayNode(field, solver, times, self.tap, self.steps_per_block).apply(y0)

    def solve_rows(self, field: RowField, solver: OneStepSolver, y0: Tensor, times: SampleTimes) -> Tensor:
        """Return the states ``[K, batch, n]`` with one node that replays block by block, by rank."""
        return BlockReplayRowsNode(field, solver, times, self.steps_per_block).apply(y0)
