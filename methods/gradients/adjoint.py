"""The adjoint method: a second solve, backwards, over state, costate and parameter gradient."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Bytes, Sizes, StepCounts, Traits
from odegrad.methods.backward.continuous import BackwardSolveNode, ContinuousMethod
from odegrad.methods.backward.node import Gradients
from odegrad.methods.backward.per_sample.cost import bytes_solved_back
from odegrad.methods.backward.per_sample.solved_back import SolvedBackRowsNode
from odegrad.methods.backward.reconstruction import relative_error, smallest_size, tell
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.loop import integrate
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import SampleTimes
from odegrad.methods.solvers.solver import OneStepSolver

LOST = 0.3
"""A state that is off by more of its size is another one, and says nothing of what a tighter tolerance would do."""


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
        if steps.rounds is not None:
            return bytes_solved_back(steps, sizes, saved)
        stages = steps.evaluations + steps.restart
        solved = 2 * sizes.state_bytes + (0 if self.parameters == "quadrature" else sizes.parameter_bytes)
        gathered = (stages + 1) * sizes.parameter_bytes if self.parameters == "quadrature" else sizes.parameter_bytes
        return Bytes(saved, saved + stages * solved + gathered + sizes.graph_bytes)

    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that solves back."""
        return _AdjointNode(field, solver, times, self).apply(y0)

    def solve_rows(self, field: RowField, solver: OneStepSolver, y0: Tensor, times: SampleTimes) -> Tensor:
        """Return the states ``[K, batch, n]`` with one node that solves every sample back by its own steps."""
        back, remedy = self.backward_steps(solver), _remedy(solver, self, y0.dtype)
        return SolvedBackRowsNode(field, solver, times, back, remedy).apply(y0)


class _AdjointNode(BackwardSolveNode):
    """Keeps nothing beside the outputs ``[K, d]``."""

    off: list[Tensor]
    """How far the solved state was from each output reached, as a norm; the last output's comes first."""

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve."""
        ys = integrate(self.field, self.solver, y0, self.times)
        return ys, (ys,)

    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> Gradients:
        """Solve back interval by interval."""
        self.off = []
        return super().pull_back(grads, kept)

    def state(self, k: int, kept: tuple[Tensor, ...]) -> Tensor:
        """Return the stored output."""
        return kept[0][k]

    def arrive(self, k: int, y: Tensor, kept: tuple[Tensor, ...]) -> None:
        """Note how far ``y [d]`` is from the stored output."""
        # A number per interval: the states themselves would be as many as the outputs, once more.
        self.off.append(torch.linalg.vector_norm(y - kept[0][k]))

    def arrived(self, kept: tuple[Tensor, ...]) -> None:
        """Tell the largest error, each relative to the state at the ends of its interval."""
        ends = torch.linalg.vector_norm(kept[0], dim=1)
        sizes = torch.maximum(ends[:-1], ends[1:])
        figure = relative_error(torch.stack(self.off[::-1]), sizes, smallest_size(self.solver, kept[0].shape[1]))
        tell(figure, self.solver, self.limits(), _remedy(self.solver, self.options, kept[0].dtype))


def _remedy(solver: OneStepSolver, options: ContinuousMethod, dtype: torch.dtype) -> Callable[[float, float], str]:
    """Return what helps: a tighter tolerance, as long as the numbers hold it; another method always does."""

    def told(error: float, limit: float) -> str:
        control = solver.controller
        advice = "take aca or anode, which keep or replay the steps"
        grown = "solved back, it has lost much more than the tolerance, as it does where the dynamics contract"
        # The error is the tolerance's times a growth that the tolerance does not change, until the state is lost. It is
        # of both solves: what the forward one is off by at its end grows on the way back, too.
        factor = limit / error / 2
        rtol, atol = max(control.rtol, options.rtol or 0) * factor, max(control.atol, options.atol or 0) * factor
        if not solver.adaptive or not error <= LOST or not rtol >= 10 * torch.finfo(dtype).eps:
            return f"{grown}; {advice}"
        return f"{grown}; solve both ways with rtol = {rtol:.0e} and atol = {atol:.0e} or less, or {advice}"

    return told
