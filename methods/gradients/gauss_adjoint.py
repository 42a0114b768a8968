"""The Gauss adjoint: the parameter integral leaves the ODE and is done by Gauss quadrature on each accepted step."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from odegrad.contracts import Calls, StepCounts, Traits
from odegrad.errors import UsageError
from odegrad.methods.backward.continuous import stages_of
from odegrad.methods.backward.costate import CostateDynamics
from odegrad.methods.backward.per_sample.cost import solved_back_calls
from odegrad.methods.backward.per_sample.gauss import GaussRowsNode
from odegrad.methods.backward.products import add_to
from odegrad.methods.gradients.interpolation import InterpolatedNode, Interpolation
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.tableau import ImplicitTableau
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import SampleTimes
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.stepper import AcceptedStep
from odegrad.methods.solvers.tableau import Tableau


@dataclass(frozen=True)
class GaussAdjoint(Interpolation):
    """Solve the costate alone over stored nodes; ``g`` by Gauss quadrature of ``f_theta^T a`` (SciML's GaussAdjoint).

    The stages of the backward solve pull back to the state only; each accepted step then takes ``points`` pull-backs
    to the parameters, at the costate of its dense output. It pays where pulling back to the parameters is dear.

    Parameters
    ----------
    points
        Points of the Gauss-Legendre rule on each accepted backward step; exact for degree ``2 points - 1``.

    Beside these, the options of ``Interpolation``; ``parameters`` is the quadrature.

    Raises
    ------
    UsageError
        If an option is out of range.
    """

    points: int = 3

    traits: ClassVar[Traits] = Traits(
        name="gauss_adjoint",
        summary="solves the costate backwards, state from Chebyshev nodes, parameter gradient by Gauss quadrature",
        paper="Norcliffe and Deisenroth, Faster Training of Neural ODEs Using Gauss-Legendre Quadrature, TMLR 2023",
        exact=False,
        keeps="the state at Chebyshev nodes",
        memory="A + n d per output + p + 2d stages, independent of N",
        cost_forward="s(N+R)+2 F",
        cost_backward="per output s(N'+R')+2 of (F+B_y), + q N' of (F+B_theta)",
        backward_phase="adjoint",
        state_from="interpolant",
        taps="any time",
    )

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if not isinstance(self.points, int) or self.points < 1:
            raise UsageError(f"points: expected a positive whole number, got {self.points!r}; 2 to 4 are usual")
        if self.parameters != "quadrature":
            raise UsageError(f"parameters: gauss_adjoint has 'quadrature' only, got {self.parameters!r}")

    @property
    def reads_inside_steps(self) -> bool:
        """Return True: the quadrature's points lie inside the steps."""
        return True

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost."""
        if steps.rounds is not None:
            return solved_back_calls(steps, self._backward(steps).evaluations, self.points)
        solved, extra = super().predicted_calls(steps), self.points * steps.accepted_backward
        return dataclasses.replace(solved, backward=solved.backward + extra, vjps=solved.vjps + extra)

    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that solves back over the stored nodes."""
        return _GaussNode(field, solver, times, self).apply(y0)

    def solve_rows(self, field: RowField, solver: OneStepSolver, y0: Tensor, times: SampleTimes) -> Tensor:
        """Return the states ``[K, batch, n]`` with one node that solves every sample back over its own nodes."""
        nodes = (self.num_nodes, self.kind)
        return GaussRowsNode(field, solver, times, self.backward_steps(solver), nodes, self.points).apply(y0)


class _GaussNode(InterpolatedNode):
    """The interpolated backward solve with another rule for the parameters."""

    options: GaussAdjoint

    def dynamics(self, solver: OneStepSolver) -> CostateDynamics:
        """Return the costate dynamics whose parameter integral is a Gauss rule."""
        return _GaussDynamics(self.field, self.parameters, stages_of(solver), self.options.points)


class _GaussDynamics(CostateDynamics):
    """The costate equation over a trajectory, without the parameters in its stages."""

    def __init__(
        self, field: FlatField, parameters: Sequence[Tensor], tableau: Tableau | ImplicitTableau, points: int
    ) -> None:
        super().__init__(field, parameters, tableau, "quadrature")
        nodes, weights = np.polynomial.legendre.leggauss(points)
        # From [-1, 1] to fractions of a step.
        self.nodes = ((nodes + 1) / 2).tolist()
        self.weights = (weights / 2).tolist()

    def weighs(self, stage: int) -> bool:  # noqa: ARG002
        """Return False: no stage pulls back to the parameters."""
        return False

    def collect(self, step: AcceptedStep) -> None:
        """Add ``-h sum_q w_q f_theta^T a`` at the Gauss points of the step; ``h`` is signed."""
        # The dense output is one polynomial inside a step only, so each step has a rule of its own.
        times = [step.t + theta * step.h for theta in self.nodes]
        x = step.at(times)
        states, costates = self.state(x, times), self.costate(x)
        for t, weight, y, a in zip(times, self.weights, states, costates, strict=True):
            pulled = self.pull_to_parameters(t, y, a)
            add_to(self.total, pulled, -step.h * weight)
