"""The solver's own dense output of every sample, kept step by step and read at the times of a backward solve."""

import numpy as np
import torch
from torch import Tensor

from odegrad.methods.backward.per_sample.continuous import BackwardRowsNode, BackwardSteps
from odegrad.methods.backward.per_sample.costate import RowTrajectory
from odegrad.methods.backward.per_sample.entry import on_device
from odegrad.methods.backward.per_sample.node import at, walked
from odegrad.methods.solvers.per_sample.accepted import AcceptedRows
from odegrad.methods.solvers.per_sample.ledger import Ledger
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import HostFloats, HostIntegers, SampleTimes
from odegrad.methods.solvers.solver import OneStepSolver

ROUNDS_PER_PIECE = 16
"""Rounds whose polynomials are laid into one tensor: rows are then gathered from few of them."""


class PolynomialRows:
    """The polynomials ``[q + 1, a, n]`` of the rounds, laid together a few rounds at a time as they come."""

    def __init__(self) -> None:
        self.pieces: list[Tensor] = []
        self._waiting: list[Tensor] = []

    def see(self, seen: AcceptedRows) -> None:
        """Keep the polynomials of a round."""
        self._waiting.append(seen.polynomial())
        if len(self._waiting) == ROUNDS_PER_PIECE:
            self.finish()

    def finish(self) -> None:
        """Lay together what is left."""
        if self._waiting:
            self.pieces.append(torch.cat(self._waiting, dim=1) if len(self._waiting) > 1 else self._waiting[0])
            self._waiting = []


class PiecewiseRows:
    """The states of every sample on its own steps: ``y(t_n + theta h_n) = sum_j c_nj theta^j``."""

    def __init__(self, ledger: Ledger, pieces: tuple[Tensor, ...]) -> None:
        samples, t, h, *_ = ledger.columns
        self.pieces = pieces
        self._edges = np.cumsum([0, *[piece.shape[1] for piece in pieces]])
        self._order = np.argsort(samples, kind="stable")
        counts = np.bincount(samples, minlength=ledger.batch)
        self._first, self._last = np.cumsum(counts) - counts, np.cumsum(counts) - 1
        self._t, self._h = t[self._order], h[self._order]

    def at(self, samples: HostIntegers, times: HostFloats) -> Tensor:
        """Return the states ``[m, w, n]`` of ``samples [w]`` at ``times [m, w]``."""
        steps = np.stack([self._steps(int(i), times[:, row]) for row, i in enumerate(samples)], axis=1).reshape(-1)
        theta = (times.reshape(-1) - self._t[steps]) / self._h[steps]
        found = self._of(self._order[steps])
        powers = on_device(theta[None] ** np.arange(len(found))[:, None], found)
        return (found * powers[:, :, None]).sum(0).view(*times.shape, -1)

    def _steps(self, sample: int, times: HostFloats) -> HostIntegers:
        """Return the steps of ``sample`` that ``times`` lie in."""
        first, last = int(self._first[sample]), int(self._last[sample])
        keys, sign = self._t[first : last + 1], 1.0 if self._h[first] > 0 else -1.0
        # At a joint either step would do; a stage may round to just before the first one.
        places = np.searchsorted(sign * keys, sign * times, side="right") - 1
        return first + np.maximum(places, 0)

    def _of(self, entries: HostIntegers) -> Tensor:
        """Return the polynomials ``[q + 1, m, n]`` of these accepted steps."""
        pieces = np.searchsorted(self._edges, entries, side="right") - 1
        touched = np.unique(pieces).tolist()
        if len(touched) == 1:
            only = self.pieces[touched[0]]
            found: Tensor = only.index_select(1, at(entries - self._edges[touched[0]], only))
            return found
        like = self.pieces[touched[0]]
        out: Tensor = like.new_empty((len(like), len(entries), like.shape[2]))
        for piece in touched:
            rows = np.flatnonzero(pieces == piece)
            own = self.pieces[piece]
            out.index_copy_(1, at(rows, own), own.index_select(1, at(entries[rows] - self._edges[piece], own)))
        return out


class DenseRowsNode(BackwardRowsNode):
    """Keeps ``[q + 1, n]`` polynomial coefficients per accepted step of every sample."""

    def __init__(self, field: RowField, solver: OneStepSolver, times: SampleTimes, back: BackwardSteps) -> None:
        super().__init__(field, solver, times, back)
        self.ledger = Ledger(len(times.table))

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep every step's polynomial."""
        polynomials = PolynomialRows()
        ys, self.reached = walked(self.field, self.solver, y0, self.sample_times, self.ledger.note, polynomials.see)
        polynomials.finish()
        return ys, tuple(polynomials.pieces)

    def state(self, k: int, samples: HostIntegers, kept: tuple[Tensor, ...]) -> RowTrajectory:  # noqa: ARG002
        """Return the stored polynomials."""
        return PiecewiseRows(self.ledger, kept)
