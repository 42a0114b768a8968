"""The interpolation method (IRDM): solve the costate backwards, read the state from Chebyshev nodes."""

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
from odegrad.methods.solvers.chebyshev import ChebyshevNodes, Kind, check_nodes
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.loop import integrate
from odegrad.methods.solvers.solver import RungeKutta
from odegrad.methods.solvers.step import Step


@dataclass(frozen=True)
class Interpolation(SharedLoopMethod):
    """Keep the state at Chebyshev nodes, solve ``(a, g)`` back and read ``y(t)`` from them (Daulbaev et al. 2020).

    The nodes are filled from the solver's dense output at no extra f call, per interval between two outputs; the
    barycentric formula gives the state at any time. The state is not solved backwards, so its instability on
    contracting dynamics is gone, and what is kept does not depend on the number of steps.

    Parameters
    ----------
    num_nodes
        Nodes per output interval, at least 2.
    kind
        ``second``: Chebyshev extrema, which hold the end points; ``first``: roots.
    rtol, atol
        Tolerances of the backward solve; None for the solver's.
    parameters, normalize_costate, tap
        As for ``Adjoint``.

    Raises
    ------
    UsageError
        If an option is out of range.
    """

    num_nodes: int = 16
    kind: Kind = "second"
    rtol: float | None = None
    atol: float | None = None
    parameters: Parameters = "quadrature"
    normalize_costate: bool = True
    tap: Tap | None = dataclasses.field(default=None, compare=False)

    traits: ClassVar[Traits] = Traits(
        name="interpolation",
        summary="solve costate and parameter gradient backwards, the state from Chebyshev nodes",
        paper="Daulbaev et al., Interpolation Technique to Speed Up Gradients Propagation in Neural ODEs, NeurIPS 2020",
        exact=False,
        memory="A + n d per output + (d+p) stages, independent of N",
        cost_forward="s(N+R)+2 F",
        cost_backward="per output s(N'+R')+2 of (F+B)",
        backward_phase="adjoint",
        taps="any time",
    )

    def __post_init__(self) -> None:
        """Check the options."""
        check_nodes(self.num_nodes, self.kind)
        check_positive("rtol", self.rtol)
        check_positive("atol", self.atol)
        check_parameters_option(self.parameters)

    def with_tap(self, tap: Tap) -> "Interpolation":
        """Return the same method with ``tap`` watching its backward pass."""
        return dataclasses.replace(self, tap=tap)

    def refuses(self, solver: RungeKutta) -> str | None:
        """Return why this method cannot use ``solver``, or None if it can."""
        if solver.tableau.dense is None:
            return "the node states come from dense output, which it does not have; use dopri5, bosh3 or rk4"
        return None

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost."""
        calls = costate_calls(steps)
        return Calls(forward_calls(steps), calls, calls)

    def solve(self, field: FlatField, solver: RungeKutta, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that solves back over the stored nodes."""
        return InterpolatedBackSolve(field, solver, times, self).apply(y0)


class _NodeFiller:
    """Writes the states at the nodes as the steps pass over them; ``values [K-1, n, d]``."""

    def __init__(self, intervals: Sequence[ChebyshevNodes], y0: Tensor) -> None:
        self.values = y0.new_empty((len(intervals), intervals[0].n, y0.numel()))
        self.pending = [(i, j, float(t)) for i, nodes in enumerate(intervals) for j, t in enumerate(nodes.times)]

    def fill(self, step: Step) -> None:
        """Fill the nodes inside ``step``; a node at its end gets the end state itself, of both intervals there."""
        inside: list[tuple[int, int, float]] = []
        while self.pending and (step.t_next - self.pending[0][2]) * step.h >= 0:
            inside.append(self.pending.pop(0))
        between = [(i, j, t) for i, j, t in inside if t not in (step.t, step.t_next)]
        if between:
            states = step.at([t for _, _, t in between])
            rows = [i * self.values.shape[1] + j for i, j, _ in between]
            self.values.view(-1, self.values.shape[-1])[rows] = states
        for i, j, t in inside:
            if t in (step.t, step.t_next):
                self.values[i, j].copy_(step.y if t == step.t else step.y_next)


@dataclass(frozen=True)
class _Interpolant:
    """The state between two outputs."""

    nodes: ChebyshevNodes
    values: Tensor

    def at(self, times: Sequence[float]) -> Tensor:
        """Return the states ``[m, d]`` at ``times``."""
        return self.nodes.evaluate(self.values, times)


class InterpolatedBackSolve(Route):
    """The route of the interpolation method; keeps the node states ``[K-1, n, d]``."""

    def __init__(self, field: FlatField, solver: RungeKutta, times: Sequence[float], options: Interpolation) -> None:
        super().__init__(field, solver, times)
        self.options = options
        pairs = zip(self.times[:-1], self.times[1:], strict=True)
        self.intervals = [ChebyshevNodes(a, b, options.num_nodes, options.kind) for a, b in pairs]

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep the states at the nodes."""
        filler = _NodeFiller(self.intervals, y0)
        ys = integrate(self.field, self.solver, y0, self.times, filler.fill)
        return torch.stack(ys), (filler.values,)

    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Solve back interval by interval, over the stored nodes."""
        options, solver = self.options, self.solver.with_tolerances(self.options.rtol, self.options.atol)
        scale = costate_scale(grads[1:]) if options.normalize_costate else torch.ones_like(grads[0, 0])
        a = torch.zeros_like(grads[0])
        in_state = options.parameters == "state"
        total = [torch.zeros_like(p) for p in self.parameters]
        for k in range(len(grads) - 1, 0, -1):
            interval = (self.times[k], self.times[k - 1])
            trajectory = _Interpolant(self.intervals[k - 1], kept[0][k - 1])
            dynamics = CostateDynamics(self.field, self.parameters, solver.tableau, trajectory, in_state)
            tap = TapSampler(options.tap, dynamics, *interval, scale) if options.tap is not None else None
            a = solve_back(dynamics, solver, interval, None, a + grads[k] / scale, tap)
            torch._foreach_add_(total, dynamics.total) if total else None
        return a * scale + grads[0], [g * scale for g in total]
