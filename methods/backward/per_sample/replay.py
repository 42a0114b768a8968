"""Replay by rank: the j-th steps of all samples are redone at once, with a graph, each by its own time and size.

Nothing is masked. A rank holds accepted steps alone, and the samples that have none of its number are not in it: what
overflowed in a rejected attempt, or in a sample that has failed, is never evaluated again, and never pulled back.
"""

import numpy as np
import torch
from torch import Tensor

from odegrad.methods.backward.node import Gradients
from odegrad.methods.backward.per_sample.node import (
    KeepingStarts,
    RecordedNode,
    StartKeepingNode,
    Starts,
    at,
    gather,
    of_outputs_inside,
    walked,
    with_outputs,
)
from odegrad.methods.solvers.per_sample.accepted import AcceptedRows
from odegrad.methods.solvers.per_sample.ledger import Ranks
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.steppers import graph_row_stepper
from odegrad.methods.solvers.per_sample.times import HostIntegers, SampleTimes, Truths
from odegrad.methods.solvers.solver import OneStepSolver


class RankPullback:
    """Pulls back through ranks by redoing them; parameter gradients gather in ``total``."""

    def __init__(self, node: RecordedNode, grads: Tensor) -> None:
        self.node = node
        self.grads = grads
        self.total: list[Tensor | None] = [None] * len(node.parameters)

    def through(self, ranks: Ranks, first: int, stop: int, x: Tensor, a: Tensor) -> Tensor:
        """Return the cotangents ``[w, n]`` of the states ``x`` at the starts of rank ``first``.

        ``a [w, n]`` are those of what comes behind rank ``stop - 1``, or behind a sample's last step before.
        """
        ends, of_ends = [], []
        with torch.enable_grad():
            leaf = z = x.detach().requires_grad_()
            stepper = graph_row_stepper(self.node.field, self.node.solver)
            for j in range(first, stop):
                rank = ranks[j]
                going_on = rank.going_on if j + 1 < stop else 0
                taken = stepper.step(rank.samples, rank.steps, z, going_on, rank.inside)
                end, z = taken.end, taken.onward
                if taken.read is not None:
                    ends.append(taken.read)
                    of_ends.append(of_outputs_inside(rank, self.grads))
                behind = a[: len(end)]
                if going_on:
                    # Rows that go on get their cotangent by the graph from the next rank; only those that end here get
                    # one from a.
                    behind = torch.cat([torch.zeros_like(a[:going_on]), a[going_on : len(end)]])
                if going_on < len(end) or len(rank.ended[0]):
                    ends.append(end)
                    of_ends.append(with_outputs(behind, rank, self.grads))
        of_start, *pulled = self.node.field.pulled_through(ends, (leaf, *self.node.parameters), of_ends)
        gather(self.total, pulled)
        return torch.zeros_like(x) if of_start is None else of_start


class StepReplayNode(StartKeepingNode):
    """Keeps the state at the start of every accepted step, and redoes one rank at a time."""

    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> Gradients:
        """Replay the ranks from the last to the first."""
        grads = self.of_carried(grads)
        back, ranks = RankPullback(self, grads), self.ledger.ranks()
        starts = Starts(self.carried(kept[0]), kept[1:], self.places)
        a = grads.new_zeros((len(ranks.samples), grads.shape[-1]))
        for rank in ranks.backwards():
            w, j = len(rank.samples), rank.number
            a[:w] = back.through(ranks, j, j + 1, starts.of(rank), a[:w])
        return self.to_start(grads, ranks.samples, a, kept[0], back.total), back.total


class _SinceOutput:
    """Counts the steps of each sample since its last output, and says which ones begin a block."""

    def __init__(self, batch: int, steps_per_block: int | None) -> None:
        self.since = np.zeros(batch, dtype=np.int64)
        self.size = steps_per_block

    def begins_block(self, seen: AcceptedRows, before: HostIntegers) -> Truths:  # noqa: ARG002
        """Return which of the accepted steps begin a block, ``[a]``."""
        since = self.since[seen.samples]
        self.since[seen.samples] = np.where(seen.reaching, 0, since + 1)
        return np.asarray(since == 0 if self.size is None else since % self.size == 0)


class BlockReplayRowsNode(RecordedNode):
    """Keeps the state at the start of each sample's blocks, and redoes a block of all samples at once, by rank.

    A block ends at a sample's output, or after ``steps_per_block`` of its steps.
    """

    def __init__(self, field: RowField, solver: OneStepSolver, times: SampleTimes, steps_per_block: int | None) -> None:
        super().__init__(field, solver, times)
        self.steps_per_block = steps_per_block

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep where each block begins."""
        counting = _SinceOutput(len(y0), self.steps_per_block)
        keeping = KeepingStarts(len(y0), counting.begins_block)
        ys, _ = walked(self.field, self.solver, y0, self.sample_times, self.ledger.note, keeping.see)
        self.places = keeping.places
        return ys, (y0, *keeping.pieces)

    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> Gradients:
        """Replay the blocks from the last to the first."""
        grads = self.of_carried(grads)
        back, starts = RankPullback(self, grads), Starts(self.carried(kept[0]), kept[1:], self.places)
        a = torch.zeros_like(grads[0])
        for k in range(int(self.sample_times.last.max()), 0, -1):
            ranks = self.ledger.ranks(k)
            size = self.steps_per_block or max(len(ranks), 1)
            # From the last block to the first; a sample that has no step in a block is not among its rows.
            for first in range((len(ranks) - 1) // size * size, -1, -size):
                rank = ranks[first]
                place = at(rank.samples, a)
                pulled = back.through(
                    ranks, first, min(first + size, len(ranks)), starts.of(rank), a.index_select(0, place)
                )
                a = a.index_copy(0, place, pulled)
        samples = self.ledger.ranks().samples
        return self.to_start(grads, samples, a.index_select(0, at(samples, a)), kept[0], back.total), back.total
