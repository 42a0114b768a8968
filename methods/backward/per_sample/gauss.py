"""The Gauss adjoint on rows: the parameter integral of each sample by Gauss quadrature on its own backward steps."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from odegrad.methods.backward.per_sample.continuous import BackwardSteps
from odegrad.methods.backward.per_sample.costate import RowCostate
from odegrad.methods.backward.per_sample.entry import on_device
from odegrad.methods.backward.per_sample.interpolated import InterpolatedRowsNode
from odegrad.methods.solvers.chebyshev import Kind
from odegrad.methods.solvers.per_sample.accepted import AcceptedRows
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import HostIntegers, SampleTimes
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.tableau import Tableau


class GaussRowsNode(InterpolatedRowsNode):
    """The interpolated backward solve of rows with another rule for the parameters."""

    def __init__(
        self,
        field: RowField,
        solver: OneStepSolver,
        times: SampleTimes,
        back: BackwardSteps,
        nodes: tuple[int, Kind],
        points: int,
    ) -> None:
        super().__init__(field, solver, times, back, nodes)
        self.points = points

    def dynamics(self) -> RowCostate:
        """Return the costate dynamics whose parameter integral is a Gauss rule."""
        return _GaussCostate(self.field, self.parameters, self.back.tableau, self.points)


class _GaussCostate(RowCostate):
    """The costate equation over a trajectory, with the parameters at the Gauss points of accepted steps."""

    def __init__(self, field: RowField, parameters: Sequence[Tensor], tableau: Tableau, points: int) -> None:
        super().__init__(field, parameters, tableau)
        nodes, weights = np.polynomial.legendre.leggauss(points)
        # From [-1, 1] to fractions of a step.
        self.nodes, self.weights = (nodes + 1) / 2, weights / 2

    def collect(self, seen: AcceptedRows, samples: HostIntegers, scale: Tensor) -> None:
        """Add ``-h_i sum_q w_q f_theta^T a`` at the Gauss points of each accepted step; see ``RowCostate``."""
        if self.trajectory is None:
            return
        steps = seen.steps
        times = steps.t[None] + self.nodes[:, None] * steps.h[None]
        states = self.trajectory.at(samples, times)
        pieces = seen.polynomial()
        columns, h = on_device(times, seen.x), on_device(steps.h, seen.x)[:, None] * scale
        for q, (node, weight) in enumerate(zip(self.nodes, self.weights, strict=True)):
            # The costate inside of the step is its own polynomial, so a point costs no stage more of the backward
            # solve.
            powers = on_device(node ** np.arange(len(pieces)), seen.x)[:, None, None]
            a = self.costate((pieces * powers).sum(0))
            self.pull_to_parameters(columns[q], states[q], a * h * -float(weight))
