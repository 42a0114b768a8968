"""The node of a solve whose samples have steps of their own: what it keeps, and what its pull-backs share."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from odegrad.methods.backward.node import SolveNode
from odegrad.methods.backward.per_sample.entry import on_device
from odegrad.methods.solvers.per_sample.accepted import AcceptedRows, OutputRows
from odegrad.methods.solvers.per_sample.ledger import KeptRows, Ledger, Rank
from odegrad.methods.solvers.per_sample.loop import Rounds
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.stages import RowVectorField
from odegrad.methods.solvers.per_sample.times import HostIntegers, SampleTimes, Truths
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.states import sent_to


def walked(
    field: RowField, solver: OneStepSolver, y0: Tensor, times: SampleTimes, *sees: Callable[[AcceptedRows], None]
) -> tuple[Tensor, HostIntegers]:
    """Solve from ``y0 [batch, n]`` without a graph, and let ``sees`` see the accepted steps.

    Return the states ``[K, batch, n]``, and the last output ``[batch]`` that each sample has come to.
    """
    rounds, outputs = Rounds(RowVectorField(field), solver, y0, times), OutputRows(y0, times)
    for seen in rounds.walk():
        outputs.put(seen)
        for see in sees:
            see(seen)
    rounds.failures.warn()
    return outputs.all(), rounds.at - 1


class RowsNode(SolveNode):
    """A solve of rows: from ``y0 [batch, n]`` to ``ys [K, batch, n]``."""

    field: RowField

    def __init__(self, field: RowField, solver: OneStepSolver, times: SampleTimes) -> None:
        super().__init__(field, solver, ())
        self.sample_times = times

    def first_call(self, y0: Tensor) -> Tensor:
        """Return f at the starts."""
        return self.field.at(on_device(self.sample_times.start, y0), y0)

    def folded(self, grads: Tensor) -> Tensor:
        """Return ``dL/dys [K, batch, n]`` with the cotangents of repeats added to those of what they repeat."""
        places, of = self.sample_times.repeats()
        if not len(places):
            return grads
        flat = grads.reshape(-1, grads.shape[-1])
        repeats = flat.index_select(0, at(places, flat))
        return flat.index_add(0, at(of, flat), repeats).view_as(grads)


class RecordedNode(RowsNode):
    """Records the accepted steps, and keeps the states that a subclass wants of them."""

    def __init__(self, field: RowField, solver: OneStepSolver, times: SampleTimes) -> None:
        super().__init__(field, solver, times)
        self.ledger = Ledger(len(times.table))

    def carried(self, y0: Tensor) -> Tensor:
        """Return what a solve from ``y0 [batch, n]`` carries at its starts; of implicit steps one f call for rates."""
        if not self.solver.implicit:
            return y0
        with torch.no_grad():
            return torch.cat([y0, self.first_call(y0).detach()], dim=1)

    def of_carried(self, grads: Tensor) -> Tensor:
        """Return ``dL/dys [K, batch, n]`` as cotangents of what is carried: of rates beside the states there are none.

        Cotangents of repeated outputs are added to those of what they repeat.
        """
        folded = self.folded(grads)
        return torch.cat([folded, torch.zeros_like(folded)], dim=-1) if self.solver.implicit else folded

    def to_start(
        self, grads: Tensor, samples: HostIntegers, a: Tensor, y0: Tensor, total: list[Tensor | None]
    ) -> Tensor:
        """Return ``dL/dy0 [batch, n]`` from the cotangents ``a`` of what ``samples`` carry at their starts.

        The first rates of implicit steps are pulled back to ``y0`` and, into ``total``, to the parameters.
        """
        n, place = y0.shape[1], at(samples, a)
        start = grads[0, :, :n].index_add(0, place, a[:, :n])
        if a.shape[1] == n or not len(samples):
            return start
        with torch.enable_grad():
            leaf = y0.index_select(0, place).detach().requires_grad_()
            rate = self.field.at(on_device(self.sample_times.start[samples], y0), leaf)
        if not rate.requires_grad:
            return start
        of_y, *pulled = self.field.pulled_through([rate], (leaf, *self.parameters), [a[:, n:].contiguous()])
        gather(total, pulled)
        return start if of_y is None else start.index_add(0, place, of_y)


def gather(total: list[Tensor | None], pulled: Sequence[Tensor | None]) -> None:
    """Add ``pulled`` to ``total``, never in place into what autograd handed out."""
    for i, p in enumerate(pulled):
        if p is not None:
            before = total[i]
            total[i] = p if before is None else before + p


Wanted = Callable[[AcceptedRows, HostIntegers], Truths]
"""Says which of a round's steps, by the number of their samples' steps before, ``[a]``."""


class KeepingStarts:
    """Keeps states at the starts of accepted steps while they are made; of first steps the start is ``y0``.

    ``wanted`` says of which; of all if None.
    """

    def __init__(self, batch: int, wanted: Wanted | None = None) -> None:
        self.wanted = wanted
        self.done = np.zeros(batch, dtype=np.int64)
        self.pieces: list[Tensor] = []
        self._places: list[HostIntegers] = []
        self._count = 0

    def see(self, seen: AcceptedRows) -> None:
        """Keep what is wanted of a round."""
        before = self.done[seen.samples]
        kept = before > 0
        if self.wanted is not None:
            kept &= self.wanted(seen, before)
        rows = np.flatnonzero(kept)
        places = np.full(len(kept), -1, dtype=np.int64)
        places[rows] = self._count + np.arange(len(rows))
        self._places.append(places)
        self._count += len(rows)
        if len(rows):
            self.pieces.append(seen.starts(None if len(rows) == len(kept) else rows))
        self.done[seen.samples] += 1

    @property
    def places(self) -> HostIntegers:
        """Return where each accepted step's state stands among the pieces, -1 where it is not kept."""
        return np.concatenate(self._places)


class Starts:
    """The states at the starts of steps: ``y0`` for first ones, what was kept for others."""

    def __init__(self, y0: Tensor, pieces: "tuple[Tensor, ...]", places: HostIntegers) -> None:
        self.y0 = y0
        self.kept = KeptRows(pieces, places)

    def of(self, rank: Rank) -> Tensor:
        """Return the states ``[w, n]`` at the starts of a rank's steps."""
        first = self.kept.places[rank.entries] < 0
        if first.all():
            return self.y0.index_select(0, at(rank.samples, self.y0))
        if not first.any():
            return self.kept.of(rank.entries)
        out = self.y0.index_select(0, at(rank.samples, self.y0))
        rows = np.flatnonzero(~first)
        return out.index_copy(0, at(rows, out), self.kept.of(rank.entries[rows]))


def at(places: HostIntegers, like: Tensor) -> Tensor:
    """Return the host's ``places`` beside ``like``, to index it by."""
    return sent_to(like.device, torch.from_numpy(places))


class StartKeepingNode(RecordedNode):
    """Keeps the state at the start of every accepted step."""

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep where each step begins."""
        keeping = KeepingStarts(len(y0))
        ys, _ = walked(self.field, self.solver, y0, self.sample_times, self.ledger.note, keeping.see)
        self.places = keeping.places
        return ys, (y0, *keeping.pieces)


def of_outputs_inside(rank: Rank, grads: Tensor) -> Tensor:
    """Return the cotangents ``[m, n]`` of the outputs inside of a rank's steps, of ``grads [K, batch, n]``."""
    places = rank.inside.outputs * grads.shape[1] + rank.samples[rank.inside.rows]
    return grads.reshape(-1, grads.shape[-1]).index_select(0, at(places, grads))


def with_outputs(a: Tensor, rank: Rank, grads: Tensor) -> Tensor:
    """Return the cotangents ``a [w, n]`` of the ends of a rank's steps with those of the outputs there added."""
    rows, outputs = rank.ended
    if not len(rows):
        return a
    batch = grads.shape[1]
    of_outputs = grads.reshape(-1, grads.shape[-1]).index_select(0, at(outputs * batch + rank.samples[rows], grads))
    return a.index_add(0, at(rows, a), of_outputs)
