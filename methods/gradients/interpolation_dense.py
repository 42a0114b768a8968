"""The interpolation method over the solver's own piecewise dense output: no nodes to choose."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Bytes, Sizes, StepCounts, Traits
from odegrad.methods.backward.continuous import BackwardSolveNode, ContinuousMethod, with_dense_output
from odegrad.methods.backward.per_sample.cost import bytes_solved_back
from odegrad.methods.backward.per_sample.dense import DenseRowsNode
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.loop import steps
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import SampleTimes
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.states import sent_to


@dataclass(frozen=True)
class InterpolationDense(ContinuousMethod):
    """Keep every step's continuous extension, solve ``(a, g)`` back over it (SciML's InterpolatingAdjoint).

    Memory grows with the number of steps, (degree + 1) states each; the state's error is the dense output's.
    Options: see ``ContinuousMethod``.
    """

    traits: ClassVar[Traits] = Traits(
        name="interpolation_dense",
        summary="solves costate and parameter gradient backwards, reads the state from the solver's dense output",
        paper="Rackauckas et al., Universal Differential Equations for Scientific Machine Learning, 2020",
        exact=False,
        keeps="the dense output's coefficients",
        memory="N d (degree + 1) + A + (2d+p) stages",
        cost_forward="s(N+R)+2 F",
        cost_backward="per output s(N'+R')+2 of (F+B)",
        backward_phase="adjoint",
        state_from="interpolant",
        taps="any time",
    )

    def cannot_use(self, solver: OneStepSolver) -> str | None:
        """Return why this method cannot take the steps of ``solver``, or None if it can."""
        reason = super().cannot_use(solver)
        if reason is None and not solver.has_dense_output:
            return f"it reads the state from dense output, which it does not have; use {with_dense_output(solver)}"
        return reason

    def predicted_bytes(self, steps: StepCounts, sizes: Sizes) -> Bytes:
        """Return the bytes that these steps cost."""
        if steps.rounds is not None:
            kept = sum(steps.rounds.steps) * (steps.dense_degree + 1) * sizes.row_bytes
            return bytes_solved_back(steps, sizes, kept + sizes.outputs * sizes.state_bytes)
        saved = (sizes.outputs + steps.accepted * (steps.dense_degree + 1)) * sizes.state_bytes
        return Bytes(saved, saved + self.bytes_of_stages(steps, sizes) + sizes.graph_bytes)

    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that solves back over the stored steps."""
        return _DenseNode(field, solver, times, self).apply(y0)

    def solve_rows(self, field: RowField, solver: OneStepSolver, y0: Tensor, times: SampleTimes) -> Tensor:
        """Return the states ``[K, batch, n]`` with one node that solves every sample back over its own steps."""
        return DenseRowsNode(field, solver, times, self.backward_steps(solver)).apply(y0)


@dataclass(frozen=True)
class _Piecewise:
    """The polynomials of all steps: ``y(t_n + theta h_n) = sum_j coefficients[n][j] theta^j``, each ``[q+1, d]``."""

    starts: tuple[float, ...]
    sizes: tuple[float, ...]
    coefficients: tuple[Tensor, ...]

    def at(self, times: Sequence[float]) -> Tensor:
        """Return the states ``[m, d]`` at ``times``."""
        places = [self._place(t) for t in times]
        pieces = torch.stack([self.coefficients[n] for n, _ in places])
        rows = [[theta**j for j in range(pieces.shape[1])] for _, theta in places]
        powers = sent_to(pieces.device, torch.tensor(rows, dtype=torch.float64), pieces.dtype)
        return torch.bmm(powers[:, None], pieces).squeeze(1)

    def _place(self, t: float) -> tuple[int, float]:
        """Return the step that ``t`` lies in and the fraction of it."""
        forwards = self.sizes[0] > 0
        keys = self.starts if forwards else tuple(-s for s in self.starts)
        # At a step's end either side would do, for the pieces join; a stage may round to just before the first start.
        n = max(bisect.bisect_right(keys, t if forwards else -t) - 1, 0)
        return n, (t - self.starts[n]) / self.sizes[n]


class _DenseNode(BackwardSolveNode):
    """Keeps ``[q+1, d]`` polynomial coefficients per accepted step."""

    def __init__(
        self, field: FlatField, solver: OneStepSolver, times: Sequence[float], options: InterpolationDense
    ) -> None:
        super().__init__(field, solver, times, options)
        self.starts: list[float] = []
        self.sizes: list[float] = []

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep each step's polynomial."""
        ys, pieces = [y0[None]], []
        for step in steps(self.field, self.solver, y0, self.times):
            self.starts.append(step.t)
            self.sizes.append(step.h)
            pieces.append(step.polynomial())
            ys += step.ys
        return torch.cat(ys), tuple(pieces)

    def state(self, k: int, kept: tuple[Tensor, ...]) -> _Piecewise:  # noqa: ARG002
        """Return the stored polynomials."""
        return _Piecewise(tuple(self.starts), tuple(self.sizes), kept)
