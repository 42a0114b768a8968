"""Checkpoints on ranks: C of them are kept, and steps are redone from these, a rank of all samples at a time."""

import numpy as np
import torch
from torch import Tensor

from odegrad.methods.backward.checkpointing import Advance, Drop, OnlineCheckpoints, reversal
from odegrad.methods.backward.node import Gradients
from odegrad.methods.backward.per_sample.node import RecordedNode, at, walked
from odegrad.methods.backward.per_sample.replay import RankPullback
from odegrad.methods.solvers.per_sample.accepted import AcceptedRows
from odegrad.methods.solvers.per_sample.ledger import Ranks
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.stages import RowVectorField
from odegrad.methods.solvers.per_sample.steppers import row_stepper
from odegrad.methods.solvers.per_sample.times import HostIntegers, SampleTimes
from odegrad.methods.solvers.solver import OneStepSolver


class CheckpointedRowsNode(RecordedNode):
    """Keeps the states of at most C ranks, and those of the last one.

    A rank is kept or given up when the first sample comes to it, by the rule of the joint loop; the others hand in
    their states when they come by.
    """

    def __init__(self, field: RowField, solver: OneStepSolver, times: SampleTimes, slots: int) -> None:
        super().__init__(field, solver, times)
        self.slots = slots
        self.checkpoints: list[int] = []

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep at most C ranks."""
        keeping = _KeepingRanks(len(y0), self.slots)
        ys, _ = walked(self.field, self.solver, y0, self.sample_times, self.ledger.note, keeping.see)
        last = max(keeping.pieces, default=0)
        self.checkpoints = [rank for rank in [0, *sorted(keeping.pieces)] if rank != last or rank == 0]
        ranks = self.ledger.ranks()
        numbers = [rank for rank in (*self.checkpoints, last) if rank]
        return ys, (y0, *(keeping.of(rank, ranks) for rank in numbers))

    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> Gradients:
        """Follow the reversal: advance without a graph, pull back one rank at a time."""
        grads = self.of_carried(grads)
        ranks, back = self.ledger.ranks(), RankPullback(self, grads)
        n = len(ranks)
        first = self.carried(kept[0]).index_select(0, at(ranks.samples, kept[0]))
        states = dict(zip(self.checkpoints, [first, *kept[1:]], strict=False))
        newest = kept[-1] if n > 1 else first
        a = grads.new_zeros((len(ranks.samples), grads.shape[-1]))
        for action in reversal(n, self.checkpoints, self.slots):
            if isinstance(action, Drop):
                del states[action.state]
                continue
            stop = action.stop if isinstance(action, Advance) else action.step
            x = newest if action.start == n - 1 else states[action.start]
            x = self._advanced(ranks, action.start, stop, x)
            if isinstance(action, Advance):
                states[stop] = x
            else:
                w = len(x)
                a[:w] = back.through(ranks, stop, stop + 1, x, a[:w])
        return self.to_start(grads, ranks.samples, a, kept[0], back.total), back.total

    @torch.no_grad()
    def _advanced(self, ranks: Ranks, start: int, stop: int, x: Tensor) -> Tensor:
        """Return the states at the starts of rank ``stop``, from those of rank ``start``; no graph."""
        if start == stop:
            return x
        stepper = row_stepper(RowVectorField(self.field), self.solver, x[:, : self.field.rows.n])
        stepper.stand_on(ranks[start].samples, ranks[start].steps.t, x)
        for j in range(start, stop):
            rank = ranks[j]
            going_on = rank.going_on if j + 1 < stop else 0
            # The rows of a rank are the first rows of the rank before, most steps first: samples that end are cut off
            # behind.
            x = stepper.attempt(rank.samples, rank.steps, x, going_on)[: rank.going_on]
            stepper.judged(accepted=True)
            if going_on:
                stepper.narrow(going_on)
        return x


class _KeepingRanks:
    """Keeps states at the starts of some ranks while the rounds go on, the first one left out."""

    def __init__(self, batch: int, slots: int) -> None:
        self.online = OnlineCheckpoints(slots)
        self.done = np.zeros(batch, dtype=np.int64)
        self.pieces: dict[int, list[tuple[HostIntegers, Tensor]]] = {}
        self._reached = 0

    def see(self, seen: AcceptedRows) -> None:
        """Keep what the rule wants of a round, and give up what it does not want any more."""
        before = self.done[seen.samples]
        if int(before.max()) > self._reached:
            self._reached += 1
            self.pieces[self._reached] = []
            # The first sample that comes to a rank decides for all: whether the others come so far is not known yet.
            forgotten = self.online.reached(self._reached)
            if forgotten is not None:
                self.pieces.pop(forgotten, None)
        for rank in np.unique(before).tolist():
            if rank in self.pieces:
                rows = np.flatnonzero(before == rank)
                x = seen.starts(None if len(rows) == len(before) else rows)
                self.pieces[rank].append((seen.samples[rows], x))
        self.done[seen.samples] += 1

    def of(self, rank: int, ranks: Ranks) -> Tensor:
        """Return the states of a kept rank, ``[w, n]``, in the order of ``ranks``."""
        samples = np.concatenate([s for s, _ in self.pieces[rank]])
        place = np.full(int(samples.max()) + 1, -1, dtype=np.int64)
        place[samples] = np.arange(len(samples))
        x = [piece for _, piece in self.pieces[rank]]
        order = place[ranks[rank].samples]
        joined = torch.cat(x) if len(x) > 1 else x[0]
        return joined if (order == np.arange(len(order))).all() else joined.index_select(0, at(order, joined))
