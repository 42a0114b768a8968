"""The backward solve of rows, interval by interval: each sample from its own output to the one before."""

import abc
import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from odegrad.methods.backward.node import Gradients
from odegrad.methods.backward.per_sample.costate import RowCostate, RowTrajectory
from odegrad.methods.backward.per_sample.node import RowsNode, at
from odegrad.methods.backward.reconstruction import Limits
from odegrad.methods.solvers.per_sample.accepted import OutputRows
from odegrad.methods.solvers.per_sample.loop import Rounds
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import HostIntegers, SampleTimes
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.tableau import Tableau


@dataclasses.dataclass(frozen=True)
class BackwardSteps:
    """How rows are solved back."""

    tableau: Tableau
    rtol: float | None
    atol: float | None
    normalize_costate: bool


class BackwardRowsNode(RowsNode):
    """The pull-back that solves every sample's costate equation from each output to the one before."""

    reached: HostIntegers
    """``[batch]``: the last output that the forward solve has come to."""

    def __init__(self, field: RowField, solver: OneStepSolver, times: SampleTimes, back: BackwardSteps) -> None:
        super().__init__(field, solver, times)
        self.back = back

    @abc.abstractmethod
    def state(self, k: int, samples: HostIntegers, kept: tuple[Tensor, ...]) -> Tensor | RowTrajectory:
        """Return how ``y`` is known between outputs k - 1 and k: ``y(t_k) [m, n]`` of ``samples``, or a trajectory."""

    def arrive(self, k: int, samples: HostIntegers, y: Tensor, kept: tuple[Tensor, ...]) -> None:
        """Hear that ``samples`` have been solved back to ``y [m, n]`` at their outputs k."""

    def arrived(self, kept: tuple[Tensor, ...]) -> None:
        """Hear that the starts are reached: tell how far the states of this pass were from the forward pass's."""

    def limits(self) -> Limits:
        """Return how far they may be."""
        return Limits.of(self.solver, self.back.rtol, self.back.atol)

    def dynamics(self) -> RowCostate:
        """Return the right-hand side of the backward solve."""
        return RowCostate(self.field, self.parameters, self.back.tableau)

    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> Gradients:
        """Solve back interval by interval.

        Raises
        ------
        SolverError
            If a sample cannot be solved back: its part of the parameters' gradient would be missing.
        """
        grads, back = self.folded(grads), self.back
        solver = dataclasses.replace(
            self.solver.with_tolerances(back.rtol, back.atol), scheme=back.tableau, first_step=None
        )
        # Each sample by its own size: by that of all, the gradient of one would depend on its mates'.
        scale = _scales(grads[1:]) if back.normalize_costate else torch.ones_like(grads[0, :, :1])
        dynamics = self.dynamics()
        a, sizes = torch.zeros_like(grads[0]), np.full(len(scale), math.nan)
        for k in range(len(grads) - 1, 0, -1):
            samples, times = self._interval(k)
            if not len(samples):
                continue
            place = at(samples, a)
            state = self.state(k, samples, kept)
            start = (a + grads[k] / scale).index_select(0, place)
            x0 = dynamics.start(state, start, samples, times.table[:, 0])
            rounds, ends = Rounds(dynamics, solver, x0, times, samples, sizes), OutputRows(x0, times)
            for seen in rounds.walk():
                own = samples[seen.samples]
                dynamics.collect(seen, own, scale.index_select(0, at(own, scale)))
                ends.put(seen)
            rounds.failures.raise_first()
            x = ends.all()[1]
            a = a.index_copy(0, place, dynamics.costate(x))
            if isinstance(state, Tensor):
                self.arrive(k - 1, samples, x[:, : self.field.rows.n], kept)
        dynamics.finish()
        self.arrived(kept)
        return a * scale + grads[0], dynamics.total

    def _interval(self, k: int) -> tuple[HostIntegers, SampleTimes]:
        """Return the samples that were solved to output k, and their times from there to the one before."""
        samples, times = self.sample_times.interval(k)
        solved = np.flatnonzero(self.reached[samples] >= k)
        return samples[solved], SampleTimes(times.table[solved], times.last[solved])


def _scales(grads: Tensor) -> Tensor:
    """Return the largest root mean square over outputs of ``grads [m, batch, n]``, ``[batch, 1]``; 1 if all vanish."""
    rms = (torch.linalg.vector_norm(grads, dim=-1) / grads.shape[-1] ** 0.5).amax(0)
    return torch.where(rms > 0, rms, torch.ones_like(rms))[:, None]
