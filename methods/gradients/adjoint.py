"""The adjoint method: a second solve, backwards, over state, costate and parameter gradient."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Calls, StepCounts, Tap, Traits
from odegrad.methods.gradients.costate import (
    CostateDynamics,
    Parameters,
    TapSampler,
    check_parameters_option,
    costate_scale,
    solve_back,
)
from odegrad.methods.gradients.entry import Route, SharedLoopMethod, check_positive, costate_calls, forward_calls
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.loop import integrate
from odegrad.methods.solvers.solver import RungeKutta


@dataclass(frozen=True)
class Adjoint(SharedLoopMethod):
    """Solve ``(y, a, g)`` back from each output to the one before (Chen et al. 2018, algorithm 1).

    The state is reset to the stored output at each output time. The gradient is that of the continuous problem: off
    by O(tol), times the growth of the state's own backward solve, exp of the integral of mu(-f_y).

    Parameters
    ----------
    rtol, atol
        Tolerances of the backward solve; None for the solver's.
    parameters
        ``quadrature``: the parameter gradient by the weights of the accepted steps, outside of the error norm (Kidger
        et al. 2021 show that it need not be controlled). ``state``: in the solved state and its norm, as published.
    normalize_costate
        Solve for the costate scaled to a root mean square of 1, so that ``atol`` means the same under any scaling of
        the loss; undone at the end. False as published.
    tap
        Watches states and costates at its own sample times.

    Raises
    ------
    UsageError
        If an option is out of range.
    """

    rtol: float | None = None
    atol: float | None = None
    parameters: Parameters = "quadrature"
    normalize_costate: bool = True
    tap: Tap | None = dataclasses.field(default=None, compare=False)

    traits: ClassVar[Traits] = Traits(
        name="adjoint",
        summary="solve state, costate and parameter gradient backwards",
        paper="Chen et al., Neural Ordinary Differential Equations, NeurIPS 2018",
        exact=False,
        memory="A + (2d+p) stages + K d",
        cost_forward="s(N+R)+2 F",
        cost_backward="per output s(N'+R')+2 of (F+B)",
        backward_phase="adjoint",
        taps="any time",
    )

    def __post_init__(self) -> None:
        """Check the options."""
        check_positive("rtol", self.rtol)
        check_positive("atol", self.atol)
        check_parameters_option(self.parameters)

    def with_tap(self, tap: Tap) -> "Adjoint":
        """Return the same method with ``tap`` watching its backward pass."""
        return dataclasses.replace(self, tap=tap)

    def refuses(self, solver: RungeKutta) -> str | None:
        """Return why this method cannot use ``solver``, or None if it can."""
        if self.tap is not None and solver.tableau.dense is None:
            return "curvature samples need dense output; use dopri5, bosh3 or rk4"
        return None

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost."""
        calls = costate_calls(steps)
        return Calls(forward_calls(steps), calls, calls)

    def solve(self, field: FlatField, solver: RungeKutta, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that solves back."""
        return _BackSolve(field, solver, times, self).apply(y0)


class _BackSolve(Route):
    def __init__(self, field: FlatField, solver: RungeKutta, times: Sequence[float], options: Adjoint) -> None:
        super().__init__(field, solver, times)
        self.options = options

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve; keep nothing beside the outputs."""
        ys = torch.stack(integrate(self.field, self.solver, y0, self.times))
        return ys, (ys,)

    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Solve back interval by interval, from the stored outputs."""
        options, solver = self.options, self.solver.with_tolerances(self.options.rtol, self.options.atol)
        scale = costate_scale(grads[1:]) if options.normalize_costate else torch.ones_like(grads[0, 0])
        dynamics = CostateDynamics(self.field, self.parameters, solver.tableau, None, options.parameters == "state")
        a = torch.zeros_like(grads[0])
        for k in range(len(grads) - 1, 0, -1):
            interval = (self.times[k], self.times[k - 1])
            tap = TapSampler(options.tap, dynamics, *interval, scale) if options.tap is not None else None
            a = solve_back(dynamics, solver, interval, kept[0][k], a + grads[k] / scale, tap)
        return a * scale + grads[0], [g * scale for g in dynamics.total]
