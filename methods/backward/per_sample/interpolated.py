"""Interpolated states of rows: Chebyshev nodes on each sample's own intervals, filled from its own steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from odegrad.methods.backward.per_sample.continuous import BackwardRowsNode, BackwardSteps
from odegrad.methods.backward.per_sample.costate import RowTrajectory
from odegrad.methods.backward.per_sample.entry import on_device
from odegrad.methods.backward.per_sample.node import at, walked
from odegrad.methods.backward.reconstruction import relative_error, smallest_size, tell
from odegrad.methods.solvers.chebyshev import ChebyshevNodes, Kind
from odegrad.methods.solvers.per_sample.accepted import AcceptedRows
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import HostFloats, HostIntegers, SampleTimes
from odegrad.methods.solvers.solver import OneStepSolver

HELD_ROUNDS = 16
"""The most rounds whose states are held, to see how far the interpolant is from them."""


class NodeRows:
    """The states at the nodes of all intervals, ``values [K-1, batch, nodes, n]``, as the rounds pass over them."""

    def __init__(self, y0: Tensor, times: SampleTimes, unit: ChebyshevNodes) -> None:
        self.times = times
        self.unit = unit
        """The nodes on the interval from 0 to 1."""
        self.values = y0.new_zeros((times.outputs - 1, len(y0), unit.n, y0.shape[1]))

    def fill(self, seen: AcceptedRows) -> None:
        """Fill the nodes inside the steps; those at outputs come from the outputs, at the end."""
        for ahead in range(int(seen.inside.before(1.0, len(seen.samples)).max()) + 1):
            self._fill(seen, seen.towards + ahead)

    def _fill(self, seen: AcceptedRows, towards: HostIntegers) -> None:
        """Fill the nodes of the intervals that end at the outputs ``towards [a]``; none where there is no interval."""
        table, samples = self.times.table, seen.samples
        there = towards <= self.times.last[samples]
        towards = np.minimum(towards, self.times.last[samples])
        start, end = table[samples, towards - 1], table[samples, towards]
        nodes = start[:, None] + (end - start)[:, None] * self.unit.times[None]
        theta = (nodes - seen.steps.t[:, None]) / seen.steps.h[:, None]
        # Half open, so that a node at the joint of two steps is in one of them.
        landed = (seen.outputs == towards)[:, None]
        rows, node = np.nonzero(there[:, None] & (theta >= 0.0) & ((theta < 1.0) | (landed & (theta < 1.0 + 1e-9))))
        if not len(rows):
            return
        pieces = seen.polynomial().index_select(1, at(rows, seen.x))
        powers = on_device(theta[rows, node][None] ** np.arange(len(pieces))[:, None], seen.x)
        states = (pieces * powers[:, :, None]).sum(0)
        places = ((towards[rows] - 1) * len(table) + samples[rows]) * self.unit.n + node
        self.values.view(-1, self.values.shape[-1]).index_copy_(0, at(places, states), states)

    def finish(self, ys: Tensor) -> None:
        """Put the outputs ``ys [K, batch, n]`` where nodes are at them."""
        if self.unit.kind == "second":
            self.values[:, :, 0].copy_(ys[:-1])
            self.values[:, :, -1].copy_(ys[1:])


@dataclass
class Interpolants:
    """The states of samples between two outputs."""

    unit: ChebyshevNodes
    start: HostFloats
    end: HostFloats
    """``[batch]``: where the interval of each sample begins and ends."""
    values: Tensor
    """``[batch, nodes, n]``."""
    _samples: HostIntegers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    _chosen: Tensor | None = None

    def at(self, samples: HostIntegers, times: HostFloats) -> Tensor:
        """Return the states ``[m, w, n]`` of ``samples [w]`` at ``times [m, w]``, by one product."""
        start, end = self.start[samples], self.end[samples]
        theta = ((times - start) / (end - start)).T
        weights = self.unit.coefficients(theta.reshape(-1).tolist()).reshape(*theta.shape, self.unit.n)
        # [rows, stages, nodes]: every row has its own times in its own interval.
        return torch.bmm(on_device(weights, self.values), self._of(samples)).transpose(0, 1)

    def _of(self, samples: HostIntegers) -> Tensor:
        if self._chosen is None or not np.array_equal(samples, self._samples):
            self._samples = samples.copy()
            self._chosen = self.values.index_select(0, at(samples, self.values))
        return self._chosen


class HeldRounds:
    """States at the ends of the steps of some rounds: every one at first, then every second, every fourth, ..."""

    def __init__(self, *, middles: bool) -> None:
        self.middles = middles
        """Whether middles of steps are held, not ends: nodes that are too few for one step miss what is inside it."""
        self.kept: list[tuple[HostIntegers, HostIntegers, HostFloats, Tensor]] = []
        self._seen, self._stride = 0, 1

    def hold(self, seen: AcceptedRows) -> None:
        """Hold a round if it is its turn."""
        self._seen += 1
        if self._seen % self._stride:
            return
        if self.middles:
            pieces = seen.polynomial()
            powers = on_device(np.float64(0.5) ** np.arange(len(pieces)), seen.x)[:, None, None]
            middle = seen.steps.t + 0.5 * seen.steps.h
            self.kept.append((seen.samples, seen.intervals(0.5), middle, (pieces * powers).sum(0)))
        else:
            self.kept.append((seen.samples, seen.intervals(1.0), seen.steps.t_next, seen.ends()))
        if len(self.kept) > HELD_ROUNDS:
            del self.kept[::2]
            self._stride *= 2

    @torch.no_grad()
    def error(self, intervals: Sequence[Interpolants], reached: HostIntegers, smallest: float) -> Tensor:
        """Return the largest error of the interpolants relative to their sample's largest node, a 0-d tensor.

        ``reached [batch]`` are the last outputs that the samples have come to; intervals behind have no nodes.
        """
        off = [intervals[0].values.new_zeros(())]
        for samples, towards, times, ends in self.kept:
            for k in np.unique(towards).tolist():
                rows = np.flatnonzero((towards == k) & (reached[samples] >= k))
                if not len(rows):
                    continue
                own, place = intervals[k - 1], at(samples[rows], ends)
                found = own.at(samples[rows], times[rows][None])[0]
                sizes = torch.linalg.vector_norm(own.values.index_select(0, place), dim=2).amax(1)
                errors = torch.linalg.vector_norm(found - ends.index_select(0, at(rows, ends)), dim=1)
                off.append(relative_error(errors, sizes, smallest))
        return torch.stack(off).amax()


class InterpolatedRowsNode(BackwardRowsNode):
    """Keeps the node states ``[K-1, batch, nodes, n]``, and how far they are off."""

    def __init__(
        self,
        field: RowField,
        solver: OneStepSolver,
        times: SampleTimes,
        back: BackwardSteps,
        nodes: tuple[int, Kind],
    ) -> None:
        super().__init__(field, solver, times, back)
        self.unit = ChebyshevNodes(0.0, 1.0, *nodes)

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep the states at the nodes."""
        nodes = NodeRows(y0, self.sample_times, self.unit)
        held = HeldRounds(middles=self.unit.n <= self.solver.dense_degree)
        ys, self.reached = walked(self.field, self.solver, y0, self.sample_times, nodes.fill, held.hold)
        nodes.finish(ys)
        values = nodes.values
        intervals = [self._between(k, values) for k in range(1, len(ys))]
        return ys, (values, held.error(intervals, self.reached, smallest_size(self.solver, y0.shape[1])))

    def state(self, k: int, samples: HostIntegers, kept: tuple[Tensor, ...]) -> RowTrajectory:  # noqa: ARG002
        """Return the interpolants between the two outputs."""
        return self._between(k, kept[0])

    def _between(self, k: int, values: Tensor) -> Interpolants:
        table = self.sample_times.table
        return Interpolants(self.unit, table[:, k - 1], table[:, k], values[k - 1])

    def arrived(self, kept: tuple[Tensor, ...]) -> None:
        """Tell how far the interpolants were from the states at the ends of steps."""
        tell(kept[1], self.solver, self.limits(), self._remedy)

    def _remedy(self, _error: float, _limit: float) -> str:
        """Return what helps."""
        return (
            f"num_nodes = {self.unit.n} is too few for some sample; give twice as many, or take interpolation_dense, "
            "aca or anode (where the field has kinks in time, no number of nodes will do)"
        )
