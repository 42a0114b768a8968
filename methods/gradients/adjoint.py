"""The adjoint method: a second solve, backwards, over state, costate and parameter gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from odegrad.contracts import Bytes, Sizes, StepCounts, Traits
from odegrad.methods.backward.continuous import BackwardSolveNode, ContinuousMethod
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.loop import integrate
from odegrad.methods.solvers.solver import OneStepSolver


@dataclass(frozen=True)
class Adjoint(ContinuousMethod):
    """Solve ``(y, a, g)`` back from each output to the one before (Chen et al. 2018, algorithm 1).

    The state is reset to the stored output at each output time. Beside O(tol), the gradient's error grows with the
    state's own backward solve, like exp of the integral of mu(-f_y). Options: see ``ContinuousMethod``.
    """

    traits: ClassVar[Traits] = Traits(
        name="adjoint",
        summary="solves state, costate and parameter gradient backwards",
        paper="Chen et al., Neural Ordinary Differential Equations, NeurIPS 2018",
        exact=False,
        keeps="the outputs",
        memory="A + (2d+p) stages + K d",
        cost_forward="s(N+R)+2 F",
        cost_backward="per output s(N'+R')+2 of (F+B)",
        backward_phase="adjoint",
        state_from="solve",
        taps="any time",
    )

    def predicted_bytes(self, steps: StepCounts, sizes: Sizes) -> Bytes:
        """Return the bytes that these steps cost."""
        saved = sizes.outputs * sizes.state_bytes
        stages = steps.evaluations + steps.restart
        solved = 2 * sizes.state_bytes + (0 if self.parameters == "quadrature" else sizes.parameter_bytes)
        gathered = (stages + 1) * sizes.parameter_bytes if self.parameters == "quadrature" else sizes.parameter_bytes
        return Bytes(saved, saved + stages * solved + gathered + sizes.graph_bytes)

    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that solves back."""
        return _AdjointNode(field, solver, times, self).apply(y0)


class _AdjointNode(BackwardSolveNode):
    """Keeps nothing beside the outputs ``[K, d]``."""

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve."""
        ys = integrate(self.field, self.solver, y0, self.times)
        return ys, (ys,)

    def state(self, k: int, kept: tuple[Tensor, ...]) -> Tensor:
        """Return the stored output."""
        return kept[0][k]
